# Roles and secrets: exactly what is needed.

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

run "execution_role" {
  command = plan

  assert {
    condition     = toset([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s.Sid]) == toset(["RegistryLogin", "PullImages", "WriteLogs", "ReadSecrets"])
    error_message = "four statements"
  }

  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "ReadSecrets"]).Resource == ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/token-AbCdEf", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/jwks-GhIjKl"]
    error_message = "exactly the two secrets"
  }

  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "WriteLogs"]).Resource == ["arn:aws:logs:eu-central-1:123456789012:log-group:/wallarm-gate/edge:log-stream:*"]
    error_message = "exactly its streams"
  }

  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "PullImages"]).Resource == ["arn:aws:ecr:eu-central-1:123456789012:repository/attester"]
    error_message = "exactly the repository"
  }

  assert {
    condition     = length(aws_iam_role_policy.exec) == 0
    error_message = "the task role is empty"
  }
}

run "no_registry_rights_without_ecr" {
  command = plan

  variables {
    attester_image = "ghcr.io/acme/attester:1.0.0"
  }

  assert {
    condition     = toset([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s.Sid]) == toset(["WriteLogs", "ReadSecrets"])
    error_message = "no ECR"
  }
}

run "trust_of_tasks_only" {
  command = plan

  assert {
    condition     = alltrue([for r in [aws_iam_role.task[0], aws_iam_role.execution[0]] : jsondecode(r.assume_role_policy).Statement[0].Principal == { Service = "ecs-tasks.amazonaws.com" }])
    error_message = "ECS tasks"
  }

  assert {
    condition     = alltrue([for r in [aws_iam_role.task[0], aws_iam_role.execution[0]] : jsondecode(r.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "123456789012" && jsondecode(r.assume_role_policy).Statement[0].Condition.ArnLike["aws:SourceArn"] == "arn:aws:ecs:eu-central-1:123456789012:*"])
    error_message = "of this account and region"
  }
}

run "exec" {
  command = plan

  variables {
    enable_execute_command = true
  }

  assert {
    condition     = length(jsondecode(aws_iam_role_policy.exec[0].policy).Statement[0].Action) == 4 && aws_ecs_service.this[0].enable_execute_command
    error_message = "four actions, on demand"
  }
}

run "kms_key_of_the_secrets" {
  command = plan

  variables {
    secrets_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012"
  }

  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "DecryptSecrets"]).Resource == ["arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012"] && one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "DecryptSecrets"]).Condition.StringEquals["kms:ViaService"] == "secretsmanager.eu-central-1.amazonaws.com"
    error_message = "only that key, only for secrets"
  }
}

run "secret_with_json_key" {
  command = plan

  variables {
    wallarm_api_token_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/all-AbCdEf:token::"
  }

  assert {
    condition     = contains(one([for s in jsondecode(aws_iam_role_policy.execution[0].policy).Statement : s if s.Sid == "ReadSecrets"]).Resource, "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/all-AbCdEf")
    error_message = "the policy names the secret"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].secrets[0].valueFrom == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:wallarm/all-AbCdEf:token::"
    error_message = "the container its key"
  }
}

run "boundary_and_path" {
  command = plan

  variables {
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/limit"
    iam_path                 = "/edge/"
  }

  assert {
    condition     = alltrue([for r in [aws_iam_role.task[0], aws_iam_role.execution[0]] : r.permissions_boundary == "arn:aws:iam::123456789012:policy/limit" && r.path == "/edge/"])
    error_message = "on both roles"
  }
}

run "secrets_by_arn" {
  command = plan

  assert {
    condition     = length(aws_secretsmanager_secret.token) + length(aws_secretsmanager_secret.signing) == 0
    error_message = "none is made"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].secrets == [{ name = "WALLARM_API_TOKEN", valueFrom = var.wallarm_api_token_secret_arn }] && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].secrets == [{ name = "ATTESTER_SIGNING_JWKS", valueFrom = var.signing_jwks_secret_arn }]
    error_message = "by reference"
  }
}

run "secrets_by_value" {
  command = plan

  variables {
    wallarm_api_token_secret_arn = null
    signing_jwks_secret_arn      = null
    wallarm_api_token            = "0123456789abcdef0123456789abcdef"
    signing_jwks                 = "{\"keys\":[{\"kty\":\"OKP\",\"d\":\"ZA\"}]}"
    wallarm_api_token_version    = 3
  }

  assert {
    condition     = aws_secretsmanager_secret_version.token[0].secret_string_wo_version == 3 && aws_secretsmanager_secret_version.signing[0].secret_string_wo_version == 1
    error_message = "written by version"
  }

  assert {
    condition     = aws_secretsmanager_secret_version.token[0].secret_string == null && aws_secretsmanager_secret_version.token[0].secret_string_wo == null
    error_message = "never in the plan"
  }
}

run "one_secret_by_value" {
  command = plan

  variables {
    signing_jwks_secret_arn = null
    signing_jwks            = "{\"keys\":[{\"kty\":\"OKP\",\"d\":\"ZA\"}]}"
  }

  assert {
    condition     = length(aws_secretsmanager_secret.token) == 0 && length(aws_secretsmanager_secret.signing) == 1
    error_message = "each by its own ARN"
  }
}
