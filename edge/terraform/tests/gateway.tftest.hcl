# What the gateway must be told.

mock_provider "aws" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  name                         = "edge"
  vpc_id                       = "vpc-0123456789abcdef0"
  alb_subnet_ids               = ["subnet-0a", "subnet-0b"]
  alb_subnet_cidrs             = ["10.0.1.0/24", "10.0.2.0/24"]
  task_subnet_ids              = ["subnet-1a", "subnet-1b"]
  task_subnet_cidrs            = ["10.0.11.0/24", "10.0.12.0/24"]
  certificate_arn              = "arn:aws:acm:eu-central-1:123456789012:certificate/12345678-1234-1234-1234-123456789012"
  attester_image               = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/attester:1.0.0"
  gateway_url                  = "https://kong.internal.example.com:8443"
  gateway_cidrs                = ["10.0.21.0/24", "10.0.22.0/24"]
  server_names                 = ["api.example.com"]
  wallarm_api_token_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/token-AbCdEf"
  signing_jwks_secret_arn      = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/jwks-GhIjKl"
}

run "task_is_the_peer" {
  command = plan

  variables {
    verification_jwks = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}"
  }

  assert {
    condition     = yamldecode(output.gate_config)[0].name == "wallarm-gate" && yamldecode(output.gate_config)[0].config.allowed_sources == ["10.0.11.0/24", "10.0.12.0/24"] && yamldecode(output.gate_config)[0].config.mode == "enforce" && yamldecode(output.gate_config)[0].config.min_mode == "monitoring" && yamldecode(output.gate_config)[0].config.applications == [] && yamldecode(output.gate_config)[0].config.jwks == var.verification_jwks
    error_message = "the plugin"
  }

  assert {
    condition     = output.gate_trusted_ips == "10.0.11.0/24,10.0.12.0/24" && yamldecode(output.chart_values).edgeCidrs == ["10.0.11.0/24", "10.0.12.0/24"] && yamldecode(output.chart_values).gate.keys.jwks == var.verification_jwks
    error_message = "the addresses that Kong may believe"
  }
}

run "load_balancer_is_the_peer" {
  command = plan

  variables {
    gateway_sees        = "load_balancer"
    wallarm_mode        = "block"
    wallarm_application = 7
  }

  assert {
    condition     = yamldecode(output.gate_config)[0].config.allowed_sources == ["10.0.21.0/24", "10.0.22.0/24"] && yamldecode(output.gate_config)[0].config.min_mode == "block" && yamldecode(output.gate_config)[0].config.applications == [7]
    error_message = "the load balancer, mode and application of the node"
  }

  assert {
    condition     = startswith(yamldecode(output.gate_config)[0].config.jwks, "{vault://")
    error_message = "a reference where no keys are given"
  }
}

run "plaintext_when_asked_for" {
  command = plan

  variables {
    gateway_url             = "http://kong.internal.example.com"
    gateway_allow_plaintext = true
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_ALLOW_PLAINTEXT == "true" && aws_vpc_security_group_egress_rule.gateway_cidr["10.0.21.0/24"].from_port == 80
    error_message = "port 80, said twice"
  }
}
