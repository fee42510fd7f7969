# What callers need, and the gateway's side of the contract. Nothing names the signing secret.

output "url" {
  description = "URL of the edge: its first name in DNS, else the first server name."
  value       = var.create ? "https://${try(sort(tolist(var.dns_names))[0], var.server_names[0])}" : null
}

output "alb_arn" {
  description = "ARN of the load balancer."
  value       = one(aws_lb.this[*].arn)
}

output "alb_dns_name" {
  description = "DNS name of the load balancer."
  value       = one(aws_lb.this[*].dns_name)
}

output "alb_zone_id" {
  description = "Hosted zone of the load balancer, for alias records."
  value       = one(aws_lb.this[*].zone_id)
}

output "alb_security_group_id" {
  description = "Security group of the load balancer."
  value       = one(aws_security_group.alb[*].id)
}

output "task_security_group_id" {
  description = "Security group of the tasks, for the gateway's ingress rule."
  value       = one(aws_security_group.task[*].id)
}

output "target_group_arn" {
  description = "ARN of the target group."
  value       = one(aws_lb_target_group.node[*].arn)
}

output "cluster_arn" {
  description = "ARN of the ECS cluster."
  value       = var.create ? local.cluster_arn : null
}

output "cluster_name" {
  description = "Name of the ECS cluster."
  value       = var.create ? local.cluster_name : null
}

output "service_name" {
  description = "Name of the ECS service."
  value       = local.service_name
}

output "task_definition_arn" {
  description = "ARN of the task definition, with its revision."
  value       = one(aws_ecs_task_definition.this[*].arn)
}

output "execution_role_arn" {
  description = "ARN of the role that starts tasks."
  value       = one(aws_iam_role.execution[*].arn)
}

output "task_role_arn" {
  description = "ARN of the role that the containers hold."
  value       = one(aws_iam_role.task[*].arn)
}

output "log_group_name" {
  description = "Name of the log group."
  value       = one(aws_cloudwatch_log_group.this[*].name)
}

locals {
  # The TCP peers that Kong sees: the only ones that may bring evidence, and whose X-Forwarded-*
  # Kong may believe.
  gateway_peers = var.gateway_sees == "task" ? local.task_cidrs : var.gateway_cidrs

  # Kong resolves the reference from the environment variable WALLARM_GATE_JWKS.
  verification_jwks = local.valid.verification_jwks ? var.verification_jwks : null
  verification_keys = coalesce(local.verification_jwks, "{vault://env/wallarm-gate-jwks}")

  gate_plugin = {
    mode            = "enforce"
    proof           = "signature"
    jwks            = local.verification_keys
    min_mode        = var.wallarm_mode
    applications    = var.wallarm_application == -1 ? [] : [var.wallarm_application]
    allowed_sources = local.gateway_peers
  }
}

output "gate_config" {
  description = "The plugin's entry for `plugins:` in a declarative kong.yml."
  value       = var.create ? yamlencode([{ name = "wallarm-gate", config = local.gate_plugin }]) : null

  precondition {
    condition     = !var.create || local.valid.verification_jwks
    error_message = "verification_jwks must be a JWK Set of public Ed25519 keys (kty OKP, a kid, no d; gatectl keys public): it is shown in outputs and in the state."
  }
}

output "gate_trusted_ips" {
  description = "Value of KONG_TRUSTED_IPS: whose X-Forwarded-* Kong may believe."
  value       = var.create ? join(",", local.gateway_peers) : null
}

output "chart_values" {
  description = "Values for charts/wallarm-gate that fit this edge."
  value = var.create ? yamlencode({
    edgeCidrs         = local.gateway_peers
    loadBalancerCidrs = var.gateway_cidrs
    gate = {
      config = {
        min_mode        = var.wallarm_mode
        applications    = local.gate_plugin.applications
        allowed_sources = local.gateway_peers
      }
      keys = { jwks = local.verification_jwks == null ? "" : local.verification_jwks }
    }
  }) : null
}

output "dashboard_name" {
  description = "Name of the dashboard; null without one."
  value       = one(aws_cloudwatch_dashboard.this[*].dashboard_name)
}

output "dashboard_url" {
  description = "Where the dashboard is in AWS's console; null without one."
  value = one([for d in aws_cloudwatch_dashboard.this : format("https://%s.console.%s/cloudwatch/home?region=%s#dashboards/dashboard/%s",
    local.region,
    lookup({ aws-cn = "amazonaws.cn", aws-us-gov = "amazonaws-us-gov.com" }, local.partition, "aws.amazon.com"),
    local.region, d.dashboard_name,
  )])
}
