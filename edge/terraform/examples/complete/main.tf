# Everything on: an own VPC with NAT, keys, alarms, a dashboard, scaling by load and by the clock,
# DNS, secrets by value.

module "edge" {
  source = "../.."

  name = var.name
  tags = { Component = "edge" }

  # Known at plan, though the subnets are made here.
  vpc_id            = aws_vpc.this.id
  alb_subnet_ids    = aws_subnet.public[*].id
  alb_subnet_cidrs  = local.public_cidrs
  task_subnet_ids   = aws_subnet.private[*].id
  task_subnet_cidrs = local.private_cidrs

  ip_address_type    = "dualstack"
  ingress_cidrs_ipv6 = ["::/0"]

  certificate_arn             = var.certificate_arn
  additional_certificate_arns = var.additional_certificate_arns
  zone_id                     = var.zone_id
  dns_names                   = [var.host]
  server_names                = concat([var.host], var.further_hosts)
  web_acl_arn                 = var.web_acl_arn
  access_logs                 = { bucket = var.access_logs_bucket, prefix = var.name }
  deletion_protection         = var.deletion_protection

  container_insights     = "enhanced"
  cpu                    = 4096
  memory                 = 8192
  cpu_architecture       = "ARM64"
  desired_count          = 2
  enable_execute_command = true

  wallarm_cloud       = "us1"
  wallarm_mode        = var.wallarm_mode
  wallarm_application = 7
  wallarm_group       = "edge"
  node_nginx          = { client_max_body_size = "32m" }

  attester_image       = var.attester_image
  attester_environment = { ATTESTER_READY_CHECKS_BACKEND = "true" }
  gateway_url          = var.gateway_url
  gateway_cidrs        = local.private_cidrs
  gateway_ca_pem       = var.gateway_ca_pem

  wallarm_api_token         = var.wallarm_api_token
  wallarm_api_token_version = var.wallarm_api_token_version
  signing_jwks              = var.signing_jwks
  signing_jwks_version      = var.signing_jwks_version
  verification_jwks         = var.verification_jwks
  secrets_kms_key_arn       = aws_kms_key.this.arn
  secret_recovery_days      = 30

  log_retention_days = 90
  log_kms_key_arn    = aws_kms_key.this.arn

  autoscaling = {
    min_capacity               = 2
    max_capacity               = 20
    requests_per_target_minute = 12000
    schedules = {
      day   = { schedule = "cron(0 7 ? * MON-FRI *)", timezone = "Europe/Berlin", min_capacity = 6, max_capacity = 20 }
      night = { schedule = "cron(0 20 * * ? *)", timezone = "Europe/Berlin", min_capacity = 2, max_capacity = 10 }
    }
  }
  alarms    = { topic_arns = [aws_sns_topic.alarms.arn], latency_p99 = 2 }
  dashboard = true
}
