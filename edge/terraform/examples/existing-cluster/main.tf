# An edge in an ECS cluster that other services share. Another tool deploys its task definitions,
# and the gateway's load balancer does not preserve the address of the task.

terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25.0"
    }
  }
}

provider "aws" {
  region = var.region
}

module "edge" {
  source = "../.."

  vpc_id          = var.vpc_id
  alb_subnet_ids  = var.public_subnet_ids
  task_subnet_ids = var.private_subnet_ids
  certificate_arn = var.certificate_arn

  server_names   = [var.host]
  attester_image = var.attester_image

  gateway_url   = var.gateway_url
  gateway_cidrs = var.gateway_cidrs

  wallarm_api_token_secret_arn = var.wallarm_api_token_secret_arn
  signing_jwks_secret_arn      = var.signing_jwks_secret_arn
  verification_jwks            = var.verification_jwks
  deletion_protection          = var.deletion_protection

  cluster_arn                    = var.cluster_arn
  ignore_task_definition_changes = true
  autoscaling                    = { min_capacity = 3, max_capacity = 12 }

  gateway_sees               = "load_balancer"
  gateway_security_group_ids = var.gateway_security_group_ids
}
