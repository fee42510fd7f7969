# The service: tasks of a Wallarm node and an attester that share one network namespace.

resource "aws_ecs_cluster" "this" {
  count = var.create && var.cluster_arn == null ? 1 : 0

  name = var.name
  tags = var.tags

  #tfsec:ignore:aws-ecs-enable-container-insight tfsec does not know the value "enhanced".
  setting {
    name  = "containerInsights"
    value = var.container_insights
  }
}

locals {
  create_cluster = var.create && var.cluster_arn == null
  cluster_arn    = local.create_cluster ? one(aws_ecs_cluster.this[*].arn) : var.cluster_arn
  cluster_name   = local.create_cluster ? one(aws_ecs_cluster.this[*].name) : try(split("/", var.cluster_arn)[1], null)
  service_name   = one(concat(aws_ecs_service.this[*].name, aws_ecs_service.external_task_definition[*].name))

  api_host    = coalesce(var.wallarm_api_host, { us1 = "us1.api.wallarm.com", eu1 = "api.wallarm.com" }[var.wallarm_cloud])
  node_memory = var.memory - var.attester_memory
  # GB for postanalytics: two fifths of what the node has, nginx and its rules need the rest.
  arena = format("%.1f", max(0.2, floor(local.node_memory * 0.4 / 102.4) / 10))

  drain = var.stop_timeout - 10

  nginx = {
    port                       = var.node_port
    ipv6                       = false
    alb_cidrs                  = local.alb_cidrs
    server_names               = var.server_names
    mode                       = var.wallarm_mode
    application                = var.wallarm_application
    parse_websocket            = var.node_nginx.parse_websocket
    analysis_time_limit_ms     = var.node_nginx.analysis_time_limit_ms
    analysis_time_limit_action = var.node_nginx.analysis_time_limit_action
    allow_dot_segments         = var.node_nginx.allow_dot_segments
    attester_address           = "127.0.0.1:8081"
    attester_keepalive         = var.node_nginx.attester_keepalive
    attester_keepalive_timeout = "50s"
    attester_connect_timeout   = "5s"
    attester_send_timeout      = "${var.response_timeout}s"
    attester_read_timeout      = "${var.response_timeout + 10}s"
    client_max_body_size       = var.node_nginx.client_max_body_size
    client_body_buffer_size    = var.node_nginx.client_body_buffer_size
    client_header_timeout      = "${var.node_nginx.client_header_timeout}s"
    client_body_timeout        = "${var.node_nginx.client_body_timeout}s"
    # Longer than the load balancer's: who sends the requests closes first.
    client_keepalive_timeout = "${var.idle_timeout + 15}s"
    send_timeout             = "60s"
    request_buffering        = var.node_nginx.request_buffering
    response_buffering       = var.node_nginx.response_buffering
    access_log               = "/dev/stdout"
    log_query                = var.node_nginx.log_query
  }

  node_environment = merge(var.node_environment, {
    DISABLE_IPV6                  = "true"
    GATE_DEFAULT_CONF             = base64encode(templatefile("${path.module}/../node/default.conf.tftpl", local.nginx))
    GATE_WALLARM_CONF             = base64encode(templatefile("${path.module}/../node/wallarm.conf.tftpl", local.nginx))
    GATE_LOG_CONF                 = filebase64("${path.module}/../node/wallarm_log.conf")
    GATE_WORKER_CONNECTIONS       = tostring(var.node_nginx.worker_connections)
    GATE_WORKER_SHUTDOWN_TIMEOUT  = "${local.drain}s"
    NGINX_PORT                    = tostring(var.node_port)
    SLAB_ALLOC_ARENA              = local.arena
    WALLARM_API_HOST              = local.api_host
    WALLARM_FALLBACK              = "false"
    WALLARM_IGNORE_REGISTER_ERROR = "false"
    WALLARM_LABELS                = "group=${coalesce(var.wallarm_group, var.name)}"
  })

  attester_environment = merge(
    var.attester_environment,
    {
      ATTESTER_BACKEND_URL       = var.gateway_url
      ATTESTER_HEALTH_LISTEN     = ":${local.health_port}"
      ATTESTER_LISTEN            = "127.0.0.1:8081"
      ATTESTER_NODE_STATUS_URL   = "http://127.0.0.8:${var.node_port}/wallarm-status"
      ATTESTER_NODE_STOP_TIMEOUT = "${var.stop_timeout}s"
      ATTESTER_RESPONSE_TIMEOUT  = "${var.response_timeout}s"
      ATTESTER_SHUTDOWN_TIMEOUT  = "${local.drain}s"
    },
    var.gateway_allow_plaintext ? { ATTESTER_ALLOW_PLAINTEXT = "true" } : {},
    var.gateway_ca_pem == null ? {} : { ATTESTER_BACKEND_CA = local.valid.gateway_ca_pem ? var.gateway_ca_pem : "refused" },
    var.gateway_server_name == null ? {} : { ATTESTER_BACKEND_SERVER_NAME = var.gateway_server_name },
  )

  log_configuration = { for name in ["node", "attester"] : name => {
    logDriver = "awslogs"
    options = {
      awslogs-group         = try(aws_cloudwatch_log_group.this[0].name, "")
      awslogs-region        = local.region
      awslogs-stream-prefix = name
      # A slow log service must not hold up requests.
      mode            = "non-blocking"
      max-buffer-size = "25m"
    }
  } }

  attester_container = merge(
    {
      name                   = "attester"
      image                  = var.attester_image
      essential              = true
      cpu                    = var.attester_cpu
      memory                 = var.attester_memory
      readonlyRootFilesystem = true
      linuxParameters        = { capabilities = { drop = ["ALL"] } }
      portMappings           = [{ containerPort = local.health_port, hostPort = local.health_port, protocol = "tcp" }]
      environment            = [for k in sort(keys(local.attester_environment)) : { name = k, value = local.attester_environment[k] }]
      secrets                = [{ name = "ATTESTER_SIGNING_JWKS", valueFrom = local.signing_value_from }]
      stopTimeout            = var.stop_timeout
      logConfiguration       = local.log_configuration.attester
      healthCheck = {
        command     = ["CMD", "/attester", "-healthcheck"]
        interval    = 10
        timeout     = 5
        retries     = 3
        startPeriod = 10
      }
    },
    var.attester_registry_credentials_arn == null ? {} : { repositoryCredentials = { credentialsParameter = var.attester_registry_credentials_arn } },
  )

  node_container = merge(
    {
      name         = "node"
      image        = var.node_image
      essential    = true
      cpu          = var.cpu - var.attester_cpu
      memory       = local.node_memory
      command      = ["bash", "-c", file("${path.module}/../node/start.sh")]
      portMappings = [{ containerPort = var.node_port, hostPort = var.node_port, protocol = "tcp" }]
      environment  = [for k in sort(keys(local.node_environment)) : { name = k, value = local.node_environment[k] }]
      secrets      = [{ name = "WALLARM_API_TOKEN", valueFrom = local.token_value_from }]
      # The node needs the attester, never the other way: the node may take 300 s to start, and
      # containers stop in the reverse order, so that requests drain through a living attester.
      dependsOn        = [{ containerName = "attester", condition = "HEALTHY" }]
      stopTimeout      = var.stop_timeout
      logConfiguration = local.log_configuration.node
      healthCheck = {
        command     = ["CMD", "wget", "-q", "-T", "4", "-O", "/dev/null", "http://127.0.0.8:${var.node_port}/wallarm-status"]
        interval    = 10
        timeout     = 5
        retries     = 3
        startPeriod = 300
      }
    },
    var.node_registry_credentials_arn == null ? {} : { repositoryCredentials = { credentialsParameter = var.node_registry_credentials_arn } },
  )
}

resource "aws_ecs_task_definition" "this" {
  count = var.create ? 1 : 0

  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = tostring(var.cpu)
  memory                   = tostring(var.memory)
  execution_role_arn       = aws_iam_role.execution[0].arn
  task_role_arn            = aws_iam_role.task[0].arn
  container_definitions    = jsonencode([local.attester_container, local.node_container])
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  lifecycle {
    precondition {
      condition     = local.valid.wallarm_api_token_secret_arn
      error_message = "wallarm_api_token_secret_arn must be the full ARN of a secret, with its six last characters, and optionally :json-key:version-stage:version-id."
    }

    precondition {
      condition     = local.valid.signing_jwks_secret_arn
      error_message = "signing_jwks_secret_arn must be the full ARN of a secret, with its six last characters, and optionally :json-key:version-stage:version-id."
    }

    precondition {
      condition     = local.valid.gateway_ca_pem
      error_message = "gateway_ca_pem must be PEM certificates, at most 16 KiB, and no private key."
    }
  }
}

# Two variants of one service, since ignore_changes cannot be conditional.

resource "aws_ecs_service" "this" {
  count = var.create && !var.ignore_task_definition_changes ? 1 : 0

  name             = var.name
  cluster          = local.cluster_arn
  task_definition  = aws_ecs_task_definition.this[0].arn
  launch_type      = "FARGATE"
  platform_version = var.platform_version
  desired_count    = var.desired_count

  deployment_minimum_healthy_percent = var.deployment.minimum_healthy_percent
  deployment_maximum_percent         = var.deployment.maximum_percent
  availability_zone_rebalancing      = "ENABLED"
  health_check_grace_period_seconds  = var.health_check_grace_period_seconds
  enable_execute_command             = var.enable_execute_command
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = var.wait_for_steady_state
  tags                               = var.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.task_subnet_ids
    security_groups  = [aws_security_group.task[0].id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.node[0].arn
    container_name   = "node"
    container_port   = var.node_port
  }

  lifecycle {
    ignore_changes = [desired_count]
  }

  # The listener attaches the target group; a task needs its secrets and permissions to start.
  depends_on = [
    aws_lb_listener.https,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.exec,
    aws_secretsmanager_secret_version.token,
    aws_secretsmanager_secret_version.signing,
  ]
}

resource "aws_ecs_service" "external_task_definition" {
  count = var.create && var.ignore_task_definition_changes ? 1 : 0

  name             = var.name
  cluster          = local.cluster_arn
  task_definition  = aws_ecs_task_definition.this[0].arn
  launch_type      = "FARGATE"
  platform_version = var.platform_version
  desired_count    = var.desired_count

  deployment_minimum_healthy_percent = var.deployment.minimum_healthy_percent
  deployment_maximum_percent         = var.deployment.maximum_percent
  availability_zone_rebalancing      = "ENABLED"
  health_check_grace_period_seconds  = var.health_check_grace_period_seconds
  enable_execute_command             = var.enable_execute_command
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = var.wait_for_steady_state
  tags                               = var.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.task_subnet_ids
    security_groups  = [aws_security_group.task[0].id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.node[0].arn
    container_name   = "node"
    container_port   = var.node_port
  }

  lifecycle {
    ignore_changes = [desired_count, task_definition]
  }

  depends_on = [
    aws_lb_listener.https,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.exec,
    aws_secretsmanager_secret_version.token,
    aws_secretsmanager_secret_version.signing,
  ]
}
