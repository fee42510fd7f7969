# Terraform 1.11 is the first with write-only arguments; the schema of hashicorp/aws 6.25.0 is
# the one that the tests run against.

terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25.0"
    }
  }
}
