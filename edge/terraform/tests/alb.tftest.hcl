# The load balancer.

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

run "defaults" {
  command = plan

  assert {
    condition     = aws_lb.this[0].drop_invalid_header_fields && aws_lb.this[0].desync_mitigation_mode == "defensive" && aws_lb.this[0].xff_header_processing_mode == "append" && aws_lb.this[0].enable_xff_client_port == false && aws_lb.this[0].enable_deletion_protection && aws_lb.this[0].preserve_host_header
    error_message = "safe by default"
  }

  assert {
    condition     = aws_lb.this[0].internal == false && aws_lb.this[0].ip_address_type == "ipv4" && length(aws_lb.this[0].access_logs) == 0
    error_message = "for clients, over IPv4"
  }

  assert {
    condition     = aws_lb_listener.https[0].port == 443 && aws_lb_listener.https[0].protocol == "HTTPS" && startswith(aws_lb_listener.https[0].ssl_policy, "ELBSecurityPolicy-TLS13-1-2")
    error_message = "TLS 1.3 and 1.2"
  }

  assert {
    condition     = aws_lb_listener.http[0].default_action[0].redirect[0].status_code == "HTTP_301" && aws_lb_listener.http[0].default_action[0].redirect[0].protocol == "HTTPS" && aws_lb_listener.http[0].default_action[0].type == "redirect"
    error_message = "HTTP is redirected"
  }
}

run "target_group" {
  command = plan

  assert {
    condition     = aws_lb_target_group.node[0].target_type == "ip" && aws_lb_target_group.node[0].port == 8080 && aws_lb_target_group.node[0].name == "edge-8080" && aws_lb_target_group.node[0].deregistration_delay == "60"
    error_message = "addresses, the node port"
  }

  assert {
    condition     = aws_lb_target_group.node[0].health_check[0].port == "8082" && aws_lb_target_group.node[0].health_check[0].path == "/readyz" && aws_lb_target_group.node[0].health_check[0].matcher == "200"
    error_message = "the health of the attester, not of a path that the gateway answers"
  }
}

run "no_redirect" {
  command = plan

  variables {
    http_redirect = false
  }

  assert {
    condition     = length(aws_lb_listener.http) == 0
    error_message = "port 80 is closed"
  }
}

run "strictest" {
  command = plan

  variables {
    desync_mitigation_mode = "strictest"
  }

  assert {
    condition     = aws_lb.this[0].desync_mitigation_mode == "strictest"
    error_message = "passed on"
  }
}

run "internal" {
  command = plan

  variables {
    internal = true
  }

  assert {
    condition     = aws_lb.this[0].internal
    error_message = "private addresses"
  }
}

run "access_logs" {
  command = plan

  variables {
    access_logs = { bucket = "logs", prefix = "edge" }
  }

  assert {
    condition     = aws_lb.this[0].access_logs[0].enabled && aws_lb.this[0].access_logs[0].bucket == "logs" && aws_lb.this[0].access_logs[0].prefix == "edge"
    error_message = "written to the bucket"
  }
}

run "sni_certificates" {
  command = plan

  variables {
    additional_certificate_arns = ["arn:aws:acm:eu-central-1:123456789012:certificate/aaaaaaaa-1234-1234-1234-123456789012"]
  }

  assert {
    condition     = length(aws_lb_listener_certificate.additional) == 1
    error_message = "attached"
  }
}

run "web_acl" {
  command = plan

  variables {
    web_acl_arn = "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/x/12345678-1234-1234-1234-123456789012"
  }

  assert {
    condition     = length(aws_wafv2_web_acl_association.this) == 1
    error_message = "associated"
  }
}

run "dns" {
  command = plan

  variables {
    zone_id         = "Z0123456789"
    dns_names       = ["api.example.com"]
    ip_address_type = "dualstack"
  }

  assert {
    condition     = keys(aws_route53_record.a) == ["api.example.com"] && keys(aws_route53_record.aaaa) == ["api.example.com"] && aws_route53_record.a["api.example.com"].alias[0].name == "edge-1.eu-central-1.elb.amazonaws.com"
    error_message = "both address families"
  }

  assert {
    condition     = output.url == "https://api.example.com"
    error_message = "the URL"
  }
}

run "dns_ipv4_only" {
  command = plan

  variables {
    zone_id   = "Z0123456789"
    dns_names = ["api.example.com"]
  }

  assert {
    condition     = length(aws_route53_record.aaaa) == 0
    error_message = "no AAAA without dualstack"
  }
}
