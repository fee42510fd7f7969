# Security groups: every way that is open, and that nothing else is.

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

run "default_rules" {
  command = plan

  assert {
    condition     = toset(keys(aws_vpc_security_group_ingress_rule.alb)) == toset(["443 0.0.0.0/0", "80 0.0.0.0/0"])
    error_message = "clients reach ports 443 and 80, nothing else"
  }

  assert {
    condition     = alltrue([for r in aws_vpc_security_group_ingress_rule.alb : r.from_port == r.to_port && r.ip_protocol == "tcp"])
    error_message = "one port for each rule"
  }

  assert {
    condition     = { for k, r in aws_vpc_security_group_egress_rule.alb : k => r.from_port } == { node = 8080, health = 8082 }
    error_message = "the load balancer reaches the node and the health listener"
  }

  assert {
    condition     = { for k, r in aws_vpc_security_group_ingress_rule.task : k => r.from_port } == { node = 8080, health = 8082 }
    error_message = "tasks take the node port and the health port"
  }

  assert {
    condition     = alltrue([for r in concat(values(aws_vpc_security_group_ingress_rule.task), values(aws_vpc_security_group_egress_rule.alb)) : r.referenced_security_group_id != null && r.cidr_ipv4 == null && r.to_port == r.from_port])
    error_message = "between load balancer and tasks only security groups are peers"
  }

  assert {
    condition     = { for k, r in aws_vpc_security_group_egress_rule.gateway_cidr : k => r.to_port } == { "10.0.21.0/24" = 8443, "10.0.22.0/24" = 8443 }
    error_message = "tasks reach the gateway on its port"
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.https[0].cidr_ipv4 == "0.0.0.0/0" && aws_vpc_security_group_egress_rule.https[0].from_port == 443 && aws_vpc_security_group_egress_rule.https[0].to_port == 443
    error_message = "tasks reach 443"
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.wallarm) + length(aws_vpc_security_group_egress_rule.endpoint) + length(aws_vpc_security_group_egress_rule.s3) + length(aws_vpc_security_group_egress_rule.gateway_group) == 0
    error_message = "no further way out"
  }
}

run "tasks_have_no_public_address" {
  command = plan

  assert {
    condition     = aws_ecs_service.this[0].network_configuration[0].assign_public_ip == false && aws_ecs_service.this[0].network_configuration[0].subnets == toset(["subnet-1a", "subnet-1b"])
    error_message = "tasks stay in their private subnets"
  }
}

run "given_ranges_and_prefix_lists" {
  command = plan

  variables {
    ingress_cidrs_ipv4      = ["203.0.113.0/24"]
    ingress_cidrs_ipv6      = ["2001:db8::/32"]
    ingress_prefix_list_ids = ["pl-12345678"]
    ip_address_type         = "dualstack"
    http_redirect           = false
  }

  assert {
    condition     = toset(keys(aws_vpc_security_group_ingress_rule.alb)) == toset(["443 203.0.113.0/24", "443 2001:db8::/32", "443 pl-12345678"])
    error_message = "only what is given, on 443"
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.alb["443 203.0.113.0/24"].cidr_ipv4 == "203.0.113.0/24" && aws_vpc_security_group_ingress_rule.alb["443 2001:db8::/32"].cidr_ipv6 == "2001:db8::/32" && aws_vpc_security_group_ingress_rule.alb["443 pl-12345678"].prefix_list_id == "pl-12345678"
    error_message = "each peer in its own argument"
  }
}

run "gateway_by_security_group" {
  command = plan

  variables {
    gateway_cidrs              = []
    gateway_security_group_ids = ["sg-0aaaaaaaaaaaaaaaa"]
    gateway_url                = "https://kong.example.com"
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.gateway_cidr) == 0 && aws_vpc_security_group_egress_rule.gateway_group[0].referenced_security_group_id == "sg-0aaaaaaaaaaaaaaaa" && aws_vpc_security_group_egress_rule.gateway_group[0].from_port == 443
    error_message = "the group, on the port of https"
  }
}

run "restricted_egress" {
  command = plan

  variables {
    egress                      = "restricted"
    endpoint_security_group_ids = ["sg-0bbbbbbbbbbbbbbbb"]
    node_image                  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/node:6.12.7"
    wallarm_cloud               = "us1"
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.https) == 0
    error_message = "not to anywhere"
  }

  assert {
    condition     = contains(keys(aws_vpc_security_group_egress_rule.wallarm), "34.96.64.17/32") && length(aws_vpc_security_group_egress_rule.wallarm) == 6
    error_message = "the addresses of the US cloud"
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.endpoint[0].referenced_security_group_id == "sg-0bbbbbbbbbbbbbbbb" && aws_vpc_security_group_egress_rule.s3[0].prefix_list_id == "pl-6ea54007"
    error_message = "the endpoints, and S3"
  }
}

run "restricted_egress_with_own_lists" {
  command = plan

  variables {
    egress                      = "restricted"
    endpoint_security_group_ids = ["sg-0bbbbbbbbbbbbbbbb"]
    node_image                  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/node:6.12.7"
    wallarm_cloud_cidrs         = ["198.51.100.1/32"]
    s3_prefix_list_id           = "pl-00000001"
  }

  assert {
    condition     = keys(aws_vpc_security_group_egress_rule.wallarm) == ["198.51.100.1/32"] && aws_vpc_security_group_egress_rule.s3[0].prefix_list_id == "pl-00000001" && length(data.aws_ec2_managed_prefix_list.s3) == 0
    error_message = "what is given, and no lookup"
  }
}

run "subnets_are_looked_up" {
  command = plan

  variables {
    alb_subnet_cidrs  = null
    task_subnet_cidrs = null
  }

  override_data {
    target = data.aws_subnet.alb[1]
    values = {
      id                = "subnet-0b"
      vpc_id            = "vpc-0123456789abcdef0"
      cidr_block        = "10.0.2.0/24"
      availability_zone = "eu-central-1b"
    }
  }

  assert {
    condition     = local.alb_cidrs == tolist(["10.0.1.0/24", "10.0.2.0/24"]) && length(data.aws_subnet.task) == 2
    error_message = "the ranges come from the subnets"
  }
}

run "alb_subnets_in_one_zone" {
  command = plan

  variables {
    alb_subnet_cidrs = null
  }

  expect_failures = [aws_lb.this]
}

run "subnet_of_another_vpc" {
  command = plan

  variables {
    alb_subnet_cidrs = null
    vpc_id           = "vpc-0fffffffffffffff0"
  }

  expect_failures = [data.aws_subnet.alb]
}

run "nothing_without_create" {
  command = plan

  variables {
    create                       = false
    vpc_id                       = null
    alb_subnet_ids               = []
    task_subnet_ids              = []
    certificate_arn              = null
    attester_image               = null
    gateway_url                  = null
    gateway_cidrs                = []
    server_names                 = []
    wallarm_api_token_secret_arn = null
    signing_jwks_secret_arn      = null
  }

  assert {
    condition     = length(aws_lb.this) + length(aws_ecs_service.this) + length(aws_ecs_cluster.this) + length(aws_iam_role.execution) + length(aws_security_group.alb) + length(aws_security_group.task) + length(aws_cloudwatch_log_group.this) + length(aws_cloudwatch_metric_alarm.this) + length(aws_secretsmanager_secret.token) + length(aws_secretsmanager_secret.signing) + length(aws_appautoscaling_target.this) + length(aws_vpc_security_group_ingress_rule.alb) + length(aws_ecs_task_definition.this) == 0
    error_message = "create = false gives nothing"
  }

  assert {
    condition     = output.url == null && output.gate_config == null && output.cluster_name == null
    error_message = "and says nothing"
  }
}
