# The smallest edge: a VPC, a certificate, two secrets and a gateway that exist already.

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
}
