# What more than one file needs.

data "aws_partition" "current" {
  count = var.create ? 1 : 0
}

data "aws_region" "current" {
  count = var.create ? 1 : 0
}

data "aws_caller_identity" "current" {
  count = var.create ? 1 : 0
}

locals {
  partition  = one(data.aws_partition.current[*].partition)
  region     = one(data.aws_region.current[*].region)
  dns_suffix = one(data.aws_partition.current[*].dns_suffix)
  account_id = one(data.aws_caller_identity.current[*].account_id)

  health_port = 8082 # the attester's, for /livez and /readyz

  # https://host[:port]
  gateway_port = try(
    tonumber(regex(":([0-9]+)$", var.gateway_url)[0]),
    startswith(var.gateway_url, "http://") ? 80 : 443,
    443,
  )
}
