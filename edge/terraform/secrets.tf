# Wallarm's API token and the signing keys: by ARN, or written here from ephemeral values that
# reach neither plan nor state. Whether a secret is made depends on the ARN alone: the value
# must not decide, it may be absent when Terraform looks.

locals {
  create_token_secret   = var.create && var.wallarm_api_token_secret_arn == null
  create_signing_secret = var.create && var.signing_jwks_secret_arn == null

  # valueFrom of the container definitions: the ARN, with an optional :key:stage:version.
  token_value_from   = local.create_token_secret ? one(aws_secretsmanager_secret.token[*].arn) : local.valid.wallarm_api_token_secret_arn ? var.wallarm_api_token_secret_arn : "arn:aws:secretsmanager:::secret:refused"
  signing_value_from = local.create_signing_secret ? one(aws_secretsmanager_secret.signing[*].arn) : local.valid.signing_jwks_secret_arn ? var.signing_jwks_secret_arn : "arn:aws:secretsmanager:::secret:refused"
}

# Values that are no secrets, where a secret may be put by mistake: the token or the keys in the
# place of their ARN, the private set in that of the public one, a private key for a certificate.
# What is not as it must be goes nowhere, and is refused by the preconditions of the task definition
# and of gate_config, whose messages show "valid" only.
locals {
  secret_arn = "^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{6}(:[^:]*:[^:]*:[^:]*)?$"

  valid = {
    wallarm_api_token_secret_arn = var.wallarm_api_token_secret_arn == null ? true : can(regex(local.secret_arn, var.wallarm_api_token_secret_arn))
    signing_jwks_secret_arn      = var.signing_jwks_secret_arn == null ? true : can(regex(local.secret_arn, var.signing_jwks_secret_arn))
    gateway_ca_pem               = var.gateway_ca_pem == null ? true : can(regex("-----BEGIN CERTIFICATE-----", var.gateway_ca_pem)) && !can(regex("PRIVATE KEY", var.gateway_ca_pem)) && length(var.gateway_ca_pem) <= 16384
    verification_jwks            = var.verification_jwks == null ? true : try(length(jsondecode(var.verification_jwks).keys) > 0 && alltrue([for k in jsondecode(var.verification_jwks).keys : k.kty == "OKP" && k.crv == "Ed25519" && length(k.kid) > 0 && !can(k.d)]), false)
  }
}

resource "aws_secretsmanager_secret" "token" {
  count = local.create_token_secret ? 1 : 0

  name                    = "${var.name}/wallarm-api-token"
  description             = "API token of the Wallarm node"
  kms_key_id              = var.secrets_kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = var.tags
}

resource "aws_secretsmanager_secret_version" "token" {
  count = local.create_token_secret ? 1 : 0

  secret_id                = aws_secretsmanager_secret.token[0].id
  secret_string_wo         = var.wallarm_api_token
  secret_string_wo_version = var.wallarm_api_token_version
}

resource "aws_secretsmanager_secret" "signing" {
  count = local.create_signing_secret ? 1 : 0

  name                    = "${var.name}/signing-jwks"
  description             = "Keys that the attester signs evidence with (JWK Set)"
  kms_key_id              = var.secrets_kms_key_arn
  recovery_window_in_days = var.secret_recovery_days
  tags                    = var.tags
}

resource "aws_secretsmanager_secret_version" "signing" {
  count = local.create_signing_secret ? 1 : 0

  secret_id                = aws_secretsmanager_secret.signing[0].id
  secret_string_wo         = var.signing_jwks
  secret_string_wo_version = var.signing_jwks_version
}
