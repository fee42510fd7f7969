variable "region" {
  description = "AWS region."
  type        = string
}

variable "vpc_id" {
  description = "Id of the VPC."
  type        = string
}

variable "public_subnet_ids" {
  description = "Two public subnets, for the load balancer."
  type        = list(string)
}

variable "private_subnet_ids" {
  description = "Two private subnets with a NAT gateway, for the tasks."
  type        = list(string)
}

variable "certificate_arn" {
  description = "ACM certificate of the host."
  type        = string
}

variable "host" {
  description = "Host name that clients use."
  type        = string
}

variable "attester_image" {
  description = "The attester's image that you pushed."
  type        = string
}

variable "gateway_url" {
  description = "https://host[:port] of the gateway's load balancer."
  type        = string
}

variable "gateway_cidrs" {
  description = "Ranges of the gateway's load balancer."
  type        = list(string)
}

variable "wallarm_api_token_secret_arn" {
  description = "Secret with Wallarm's API token."
  type        = string
}

variable "signing_jwks_secret_arn" {
  description = "Secret with the signing keys."
  type        = string
}

variable "verification_jwks" {
  description = "The public keys, for the gateway."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the load balancer is protected against deletion."
  type        = bool
  default     = true
}
