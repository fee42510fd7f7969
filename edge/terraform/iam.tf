# Two roles: ECS starts a task with the execution role; the containers hold the task role, which
# is empty but for ECS Exec. Wildcards: ecr:GetAuthorizationToken and the ssmmessages actions
# know no resources, log streams have no names beforehand, and AWS lets the source ARN of a
# task's trust policy be no narrower.

locals {
  # 123456789012.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG -> the repository's ARN.
  ecr_images = [for image in compact([var.node_image, var.attester_image]) :
    regex("^([0-9]{12})\\.dkr\\.ecr\\.([a-z0-9-]+)\\.amazonaws\\.com(?:\\.cn)?/([^:@]+)", image)
  if can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(?:\\.cn)?/[^:@]+", image))]
  ecr_repositories = distinct([for i in local.ecr_images : "arn:${coalesce(local.partition, "aws")}:ecr:${i[1]}:${i[0]}:repository/${i[2]}"])

  # ARNs without :key:stage:version.
  readable_secrets = distinct([for arn in compact([
    local.token_value_from, local.signing_value_from,
    var.node_registry_credentials_arn, var.attester_registry_credentials_arn,
  ]) : join(":", slice(split(":", arn), 0, 7))])

  execution_statements = concat(
    length(local.ecr_repositories) == 0 ? [] : [
      {
        Sid       = "RegistryLogin"
        Effect    = "Allow"
        Action    = ["ecr:GetAuthorizationToken"]
        Resource  = ["*"]
        Condition = {}
      },
      {
        Sid       = "PullImages"
        Effect    = "Allow"
        Action    = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        Resource  = local.ecr_repositories
        Condition = {}
      },
    ],
    [
      {
        Sid       = "WriteLogs"
        Effect    = "Allow"
        Action    = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource  = ["${try(aws_cloudwatch_log_group.this[0].arn, "")}:log-stream:*"]
        Condition = {}
      },
      {
        Sid       = "ReadSecrets"
        Effect    = "Allow"
        Action    = ["secretsmanager:GetSecretValue"]
        Resource  = local.readable_secrets
        Condition = {}
      },
    ],
    var.secrets_kms_key_arn == null ? [] : [
      {
        Sid       = "DecryptSecrets"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [var.secrets_kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${coalesce(local.region, "-")}.${coalesce(local.dns_suffix, "-")}" } }
      },
    ],
  )

  # Only tasks of this account and region may take the roles (confused deputy).
  task_trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Tasks"
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${coalesce(local.partition, "aws")}:ecs:${coalesce(local.region, "-")}:${coalesce(local.account_id, "-")}:*" }
      }
    }]
  })
}

resource "aws_iam_role" "execution" {
  count = var.create ? 1 : 0

  name                 = "${var.name}-execution"
  path                 = var.iam_path
  description          = "Starts the tasks of the edge ${var.name}: images, secrets, logs"
  assume_role_policy   = local.task_trust
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "execution" {
  count = var.create ? 1 : 0

  name = "start-tasks"
  role = aws_iam_role.execution[0].name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for s in local.execution_statements : { for k, v in s : k => v if k != "Condition" || length(v) > 0 }]
  })
}

resource "aws_iam_role" "task" {
  count = var.create ? 1 : 0

  name                 = "${var.name}-task"
  path                 = var.iam_path
  description          = "Held by the containers of the edge ${var.name}"
  assume_role_policy   = local.task_trust
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "exec" {
  count = var.create && var.enable_execute_command ? 1 : 0

  name = "ecs-exec"
  role = aws_iam_role.task[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid    = "Exec"
      Effect = "Allow"
      Action = [
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
      ]
      Resource = ["*"]
    }]
  })
}
