variable "region" {
  description = "AWS region."
  type        = string
}

variable "name" {
  description = "Name of the edge."
  type        = string
  default     = "edge"
}

variable "vpc_cidr" {
  description = "Range of the VPC, a /16."
  type        = string
  default     = "10.20.0.0/16"
}

variable "certificate_arn" {
  description = "ACM certificate of the host."
  type        = string
}

variable "additional_certificate_arns" {
  description = "Certificates of further hosts."
  type        = list(string)
  default     = []
}

variable "zone_id" {
  description = "Route 53 zone of the host."
  type        = string
}

variable "host" {
  description = "Host name that becomes an alias of the load balancer."
  type        = string
}

variable "further_hosts" {
  description = "Further host names that clients use."
  type        = list(string)
  default     = []
}

variable "access_logs_bucket" {
  description = "S3 bucket of the load balancer's access logs and the VPC's flow logs, whose policy lets both write."
  type        = string
}

variable "web_acl_arn" {
  description = "AWS WAF web ACL before the load balancer, for example a rate limit; null: none."
  type        = string
  default     = null
}

variable "wallarm_mode" {
  description = "Filtration mode of the node."
  type        = string
  default     = "block"
}

variable "attester_image" {
  description = "The attester's image (ARM64) that you pushed."
  type        = string
}

variable "gateway_url" {
  description = "https://host[:port] of the gateway's load balancer, in the private subnets."
  type        = string
}

variable "gateway_ca_pem" {
  description = "Authority of the gateway's certificate; null: the system's."
  type        = string
  default     = null
}

variable "wallarm_api_token" {
  description = "Wallarm's API token."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "wallarm_api_token_version" {
  description = "Raise it to write a new token."
  type        = number
  default     = 1
}

variable "signing_jwks" {
  description = "The signing keys, a JWK Set."
  type        = string
  sensitive   = true
  ephemeral   = true
}

variable "signing_jwks_version" {
  description = "Raise it to write new keys."
  type        = number
  default     = 1
}

variable "verification_jwks" {
  description = "The public keys, for the gateway."
  type        = string
}

variable "alarm_email" {
  description = "Address that gets the alarms; null: nobody."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the load balancer is protected against deletion."
  type        = bool
  default     = true
}
