# Every input that is refused, and by which variable.

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

run "name_too_long" {
  command = plan

  variables {
    name = "a-name-that-is-far-too-long-for-it"
  }

  expect_failures = [var.name]
}

run "name_internal" {
  command = plan

  variables {
    name = "internal-edge"
  }

  expect_failures = [var.name]
}

run "no_vpc" {
  command = plan

  variables {
    vpc_id = null
  }

  expect_failures = [var.vpc_id]
}

run "one_alb_subnet" {
  command = plan

  variables {
    alb_subnet_ids = ["subnet-0a"]
  }

  expect_failures = [var.alb_subnet_ids]
}

run "everybody_is_the_load_balancer" {
  command = plan

  variables {
    alb_subnet_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.alb_subnet_cidrs]
}

run "loopback_is_the_load_balancer" {
  command = plan

  variables {
    alb_subnet_cidrs = ["127.0.0.0/8"]
  }

  expect_failures = [var.alb_subnet_cidrs]
}

run "host_bits" {
  command = plan

  variables {
    alb_subnet_cidrs = ["10.0.1.7/24"]
  }

  expect_failures = [var.alb_subnet_cidrs]
}

run "one_task_subnet" {
  command = plan

  variables {
    task_subnet_ids = ["subnet-1a"]
  }

  expect_failures = [var.task_subnet_ids]
}

run "everybody_is_a_task" {
  command = plan

  variables {
    task_subnet_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.task_subnet_cidrs]
}

run "nobody_may_come" {
  command = plan

  variables {
    ingress_cidrs_ipv4 = []
  }

  expect_failures = [var.ingress_cidrs_ipv4]
}

run "ipv6_without_dualstack" {
  command = plan

  variables {
    ingress_cidrs_ipv6 = ["::/0"]
  }

  expect_failures = [var.ingress_cidrs_ipv6]
}

run "prefix_list_id" {
  command = plan

  variables {
    ingress_prefix_list_ids = ["list"]
  }

  expect_failures = [var.ingress_prefix_list_ids]
}

run "restricted_without_endpoints" {
  command = plan

  variables {
    egress     = "restricted"
    node_image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/node:1"
  }

  expect_failures = [var.egress]
}

run "restricted_with_public_image" {
  command = plan

  variables {
    egress                      = "restricted"
    endpoint_security_group_ids = ["sg-1"]
  }

  expect_failures = [var.egress]
}

run "restricted_with_unknown_cloud" {
  command = plan

  variables {
    egress                      = "restricted"
    endpoint_security_group_ids = ["sg-1"]
    node_image                  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/node:1"
    wallarm_api_host            = "me1.api.wallarm.com"
  }

  expect_failures = [var.wallarm_cloud_cidrs]
}

run "no_certificate" {
  command = plan

  variables {
    certificate_arn = null
  }

  expect_failures = [var.certificate_arn]
}

run "old_tls" {
  command = plan

  variables {
    ssl_policy = "ELBSecurityPolicy-2016-08"
  }

  expect_failures = [var.ssl_policy]
}

run "extended_ciphers" {
  command = plan

  variables {
    ssl_policy = "ELBSecurityPolicy-TLS13-1-2-Ext1-2021-06"
  }

  expect_failures = [var.ssl_policy]
}

run "idle_below_response" {
  command = plan

  variables {
    idle_timeout = 60
  }

  expect_failures = [var.idle_timeout]
}

run "desync_monitor" {
  command = plan

  variables {
    desync_mitigation_mode = "monitor"
  }

  expect_failures = [var.desync_mitigation_mode]
}

run "xff_preserve" {
  command = plan

  variables {
    xff_header_processing_mode = "preserve"
  }

  expect_failures = [var.xff_header_processing_mode]
}

run "xff_remove" {
  command = plan

  variables {
    xff_header_processing_mode = "remove"
  }

  expect_failures = [var.xff_header_processing_mode]
}

run "web_acl_of_cloudfront" {
  command = plan

  variables {
    web_acl_arn = "arn:aws:wafv2:us-east-1:123456789012:global/webacl/x/1"
  }

  expect_failures = [var.web_acl_arn]
}

run "health_check_timeout" {
  command = plan

  variables {
    health_check = { interval = 5, timeout = 5 }
  }

  expect_failures = [var.health_check]
}

run "task_subnet_with_host_bits" {
  command = plan

  variables {
    task_subnet_cidrs = ["10.0.11.5/24"]
  }

  expect_failures = [var.task_subnet_cidrs]
}

run "gateway_with_host_bits" {
  command = plan

  variables {
    gateway_cidrs = ["10.0.21.7/24"]
  }

  expect_failures = [var.gateway_cidrs]
}

run "gateway_is_everybody" {
  command = plan

  variables {
    gateway_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.gateway_cidrs]
}

run "ingress_with_host_bits" {
  command = plan

  variables {
    ingress_cidrs_ipv4 = ["203.0.113.9/24"]
  }

  expect_failures = [var.ingress_cidrs_ipv4]
}

run "cloud_with_host_bits" {
  command = plan

  variables {
    wallarm_cloud_cidrs = ["34.96.64.17/24"]
  }

  expect_failures = [var.wallarm_cloud_cidrs]
}

run "gateway_server_name_with_a_scheme" {
  command = plan

  variables {
    gateway_server_name = "https://kong.internal"
  }

  expect_failures = [var.gateway_server_name]
}

run "half_a_second_of_draining" {
  command = plan

  variables {
    deregistration_delay = 1.5
  }

  expect_failures = [var.deregistration_delay]
}

run "half_a_second_between_checks" {
  command = plan

  variables {
    health_check = { interval = 10.5 }
  }

  expect_failures = [var.health_check]
}

run "attester_environment_misspelt" {
  command = plan

  variables {
    attester_environment = { ATTESTER_LOGLEVEL = "info" }
  }

  expect_failures = [var.attester_environment]
}

run "deregistration_delay" {
  command = plan

  variables {
    deregistration_delay = 3601
  }

  expect_failures = [var.deregistration_delay]
}

run "dns_without_zone" {
  command = plan

  variables {
    dns_names = ["api.example.com"]
  }

  expect_failures = [var.dns_names]
}

run "dns_name_that_is_answered_421" {
  command = plan

  variables {
    zone_id   = "Z1"
    dns_names = ["www.example.com"]
  }

  expect_failures = [var.dns_names]
}

run "cluster_name_for_arn" {
  command = plan

  variables {
    cluster_arn = "shared"
  }

  expect_failures = [var.cluster_arn]
}

run "fargate_cpu" {
  command = plan

  variables {
    cpu = 3000
  }

  expect_failures = [var.cpu]
}

run "fargate_pair" {
  command = plan

  variables {
    cpu    = 1024
    memory = 1024
  }

  expect_failures = [var.memory]
}

run "fargate_step" {
  command = plan

  variables {
    cpu    = 8192
    memory = 17408
  }

  expect_failures = [var.memory]
}

run "fargate_256_with_1536" {
  command = plan

  variables {
    cpu          = 256
    memory       = 1536
    attester_cpu = 64
  }

  expect_failures = [var.memory]
}

run "attester_takes_all" {
  command = plan

  variables {
    attester_memory = 4000
  }

  expect_failures = [var.attester_memory]
}

run "attester_cpu" {
  command = plan

  variables {
    attester_cpu = 2048
  }

  expect_failures = [var.attester_cpu]
}

run "no_room_for_rebalancing" {
  command = plan

  variables {
    deployment = { maximum_percent = 100 }
  }

  expect_failures = [var.deployment]
}

run "grace_below_start" {
  command = plan

  variables {
    health_check_grace_period_seconds = 300
  }

  expect_failures = [var.health_check_grace_period_seconds]
}

run "stop_timeout" {
  command = plan

  variables {
    stop_timeout = 180
  }

  expect_failures = [var.stop_timeout]
}

run "image_latest" {
  command = plan

  variables {
    node_image = "docker.io/wallarm/node:latest"
  }

  expect_failures = [var.node_image]
}

run "image_without_tag" {
  command = plan

  variables {
    node_image = "docker.io/wallarm/node"
  }

  expect_failures = [var.node_image]
}

run "no_attester_image" {
  command = plan

  variables {
    attester_image = null
  }

  expect_failures = [var.attester_image]
}

run "node_port_of_the_attester" {
  command = plan

  variables {
    node_port = 8081
  }

  expect_failures = [var.node_port]
}

run "no_server_names" {
  command = plan

  variables {
    server_names = []
  }

  expect_failures = [var.server_names]
}

run "server_name_wildcard" {
  command = plan

  variables {
    server_names = ["*.example.com"]
  }

  expect_failures = [var.server_names]
}

run "mode" {
  command = plan

  variables {
    wallarm_mode = "blocking"
  }

  expect_failures = [var.wallarm_mode]
}

run "application_zero" {
  command = plan

  variables {
    wallarm_application = 0
  }

  expect_failures = [var.wallarm_application]
}

run "cloud" {
  command = plan

  variables {
    wallarm_cloud = "eu"
  }

  expect_failures = [var.wallarm_cloud]
}

run "body_size" {
  command = plan

  variables {
    node_nginx = { client_max_body_size = "16m; return 200" }
  }

  expect_failures = [var.node_nginx]
}

run "node_environment_of_the_module" {
  command = plan

  variables {
    node_environment = { NGINX_BACKEND = "kong" }
  }

  expect_failures = [var.node_environment]
}

run "attester_environment_of_the_module" {
  command = plan

  variables {
    attester_environment = { ATTESTER_LISTEN = ":8081" }
  }

  expect_failures = [var.attester_environment]
}

run "gateway_url_with_path" {
  command = plan

  variables {
    gateway_url = "https://kong.example.com/api"
  }

  expect_failures = [var.gateway_url]
}

run "gateway_in_clear" {
  command = plan

  variables {
    gateway_url = "http://kong.example.com"
  }

  expect_failures = [var.gateway_url]
}

run "gateway_out_of_reach" {
  command = plan

  variables {
    gateway_cidrs = []
  }

  expect_failures = [var.gateway_cidrs]
}

run "gateway_ca_is_a_key" {
  command = plan

  variables {
    gateway_ca_pem = "-----BEGIN PRIVATE KEY-----"
  }

  expect_failures = [aws_ecs_task_definition.this]
}

run "gateway_sees" {
  command = plan

  variables {
    gateway_sees = "nlb"
  }

  expect_failures = [var.gateway_sees]
}

run "load_balancer_without_ranges" {
  command = plan

  variables {
    gateway_sees               = "load_balancer"
    gateway_cidrs              = []
    gateway_security_group_ids = ["sg-1"]
  }

  expect_failures = [var.gateway_sees]
}

run "secret_without_its_suffix" {
  command = plan

  variables {
    wallarm_api_token_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token"
  }

  expect_failures = [aws_ecs_task_definition.this]
}

run "keys_in_the_place_of_their_arn" {
  command = plan

  variables {
    signing_jwks_secret_arn = "{\"keys\":[{\"kty\":\"OKP\",\"kid\":\"a\",\"d\":\"ZA\"}]}"
  }

  expect_failures = [aws_ecs_task_definition.this]
}

run "no_token" {
  command = plan

  variables {
    wallarm_api_token_secret_arn = null
  }

  expect_failures = [var.wallarm_api_token]
}

run "no_signing_keys" {
  command = plan

  variables {
    signing_jwks_secret_arn = null
  }

  expect_failures = [var.signing_jwks]
}

run "signing_keys_are_no_set" {
  command = plan

  variables {
    signing_jwks_secret_arn = null
    signing_jwks            = "abc"
  }

  expect_failures = [var.signing_jwks]
}

run "signing_keys_are_public" {
  command = plan

  variables {
    signing_jwks_secret_arn = null
    signing_jwks            = "{\"keys\":[{\"kty\":\"OKP\",\"kid\":\"a\",\"x\":\"eA\"}]}"
  }

  expect_failures = [var.signing_jwks]
}

run "verification_key_is_private" {
  command = plan

  variables {
    verification_jwks = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"eA\",\"d\":\"ZA\"}]}"
  }

  expect_failures = [output.gate_config]
}

run "verification_key_is_shared" {
  command = plan

  variables {
    verification_jwks = "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"a\",\"k\":\"eA\"}]}"
  }

  expect_failures = [output.gate_config]
}

run "kms_alias" {
  command = plan

  variables {
    secrets_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:alias/x"
  }

  expect_failures = [var.secrets_kms_key_arn]
}

run "recovery_days" {
  command = plan

  variables {
    secret_recovery_days = 3
  }

  expect_failures = [var.secret_recovery_days]
}

run "iam_path" {
  command = plan

  variables {
    iam_path = "edge"
  }

  expect_failures = [var.iam_path]
}

run "log_retention" {
  command = plan

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "scaling_bounds" {
  command = plan

  variables {
    autoscaling = { min_capacity = 5, max_capacity = 2 }
  }

  expect_failures = [var.autoscaling]
}

run "scaling_without_target" {
  command = plan

  variables {
    autoscaling = { cpu_target = 0, memory_target = 0 }
  }

  expect_failures = [var.autoscaling]
}

run "scaling_beyond_ecs" {
  command = plan

  variables {
    autoscaling = { max_capacity = 5001 }
  }

  expect_failures = [var.autoscaling]
}

run "half_a_task" {
  command = plan

  variables {
    autoscaling = { min_capacity = 1.5 }
  }

  expect_failures = [var.autoscaling]
}

run "schedule_without_scaling" {
  command = plan

  variables {
    autoscaling = { enabled = false, schedules = { x = { schedule = "rate(1 hour)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "too_many_schedules" {
  command = plan

  variables {
    autoscaling = { schedules = { for i in range(201) : "x${i}" => { schedule = "rate(1 hour)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "schedule_name" {
  command = plan

  variables {
    autoscaling = { schedules = { "a:b" = { schedule = "rate(1 hour)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "schedule_to_nothing" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(1 hour)", min_capacity = 0, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "schedule_upside_down" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(1 hour)", min_capacity = 10, max_capacity = 2 } } }
  }

  expect_failures = [var.autoscaling]
}

run "schedule_beyond_ecs" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(1 hour)", min_capacity = 2, max_capacity = 5001 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_of_unix" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 7 * * 1-5)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_with_both_days" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 7 1 * MON *)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_without_a_day" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 7 ? * ? *)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_minute_60" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(60 7 ? * MON *)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_hour_24" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 24 ? * MON *)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "cron_day_of_week_0" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 7 ? * 0 *)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "rate_of_1_hours" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(1 hours)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "rate_of_seconds" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(30 seconds)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "at_no_date" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "at(2026-02-30T08:00:00)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "at_with_a_zone" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "at(2026-12-24T08:00:00Z)", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "no_schedule" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "every morning", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "timezone" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "cron(0 7 ? * MON *)", timezone = "+01:00", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "rate_with_timezone" {
  command = plan

  variables {
    autoscaling = { schedules = { x = { schedule = "rate(1 hour)", timezone = "Europe/Berlin", min_capacity = 2, max_capacity = 10 } } }
  }

  expect_failures = [var.autoscaling]
}

run "alarm_topic" {
  command = plan

  variables {
    alarms = { topic_arns = ["alarms"] }
  }

  expect_failures = [var.alarms]
}

run "gateway_port" {
  command = plan

  variables {
    gateway_url = "https://kong.example.com:70000"
  }

  expect_failures = [var.gateway_url]
}

run "half_a_connection" {
  command = plan

  variables {
    node_nginx = { worker_connections = 1000.5 }
  }

  expect_failures = [var.node_nginx]
}
