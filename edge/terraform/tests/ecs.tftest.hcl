# The service and its two containers.

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

run "task" {
  command = plan

  assert {
    condition     = aws_ecs_task_definition.this[0].cpu == "2048" && aws_ecs_task_definition.this[0].memory == "4096" && aws_ecs_task_definition.this[0].network_mode == "awsvpc" && aws_ecs_task_definition.this[0].runtime_platform[0].cpu_architecture == "X86_64"
    error_message = "size and platform"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].name == "attester" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].name == "node" && length(jsondecode(aws_ecs_task_definition.this[0].container_definitions)) == 2
    error_message = "two containers"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].cpu + jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].cpu == 2048 && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].memory + jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].memory == 4096
    error_message = "they share the whole task"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].dependsOn == [{ containerName = "attester", condition = "HEALTHY" }] && !can(jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].dependsOn)
    error_message = "the node needs the attester, never the other way"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].readonlyRootFilesystem && !can(jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].readonlyRootFilesystem)
    error_message = "read-only for the attester; the node writes its configuration"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].stopTimeout == 120 && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].stopTimeout == 120
    error_message = "time to finish requests"
  }
}

run "health_checks" {
  command = plan

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].healthCheck.command == ["CMD", "/attester", "-healthcheck"]
    error_message = "the attester asks itself: its image has no shell"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].healthCheck.command[0] == "CMD" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].healthCheck.command[1] == "wget" && contains(jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].healthCheck.command, "http://127.0.0.8:8080/wallarm-status") && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].healthCheck.startPeriod == 300
    error_message = "the status server of the node"
  }

  assert {
    condition     = aws_ecs_service.this[0].health_check_grace_period_seconds >= 360
    error_message = "longer than the start of the node"
  }
}

run "node_is_strict" {
  command = plan

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_FALLBACK == "false" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_IGNORE_REGISTER_ERROR == "false" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_API_HOST == "api.wallarm.com" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_LABELS == "group=edge" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.SLAB_ALLOC_ARENA == "1.5" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.NGINX_PORT == "8080"
    error_message = "no start without the cloud"
  }

  assert {
    condition     = !contains(keys({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }), "NGINX_BACKEND") && !contains(keys({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }), "WALLARM_API_TOKEN")
    error_message = "our configuration stays, and no secret is a plain variable"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].command[0] == "bash" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].command[1] == "-c" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].command[2] == file("../node/start.sh")
    error_message = "the start script of edge/node"
  }
}

run "nginx_files" {
  command = plan

  variables {
    wallarm_mode        = "block"
    wallarm_application = 42
    idle_timeout        = 120
  }

  assert {
    condition     = strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_WALLARM_CONF), "wallarm_mode block; set $gate_mode block;") && strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_WALLARM_CONF), "wallarm_mode_allow_override strict;") && strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_WALLARM_CONF), "wallarm_application 42;")
    error_message = "mode and application"
  }

  assert {
    condition     = strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_DEFAULT_CONF), "set_real_ip_from 10.0.1.0/24;") && strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_DEFAULT_CONF), "set_real_ip_from 10.0.2.0/24;")
    error_message = "only the subnets of the load balancer are believed"
  }

  assert {
    condition     = length(regexall("set_real_ip_from", base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_DEFAULT_CONF))) == 2
    error_message = "and nobody else"
  }

  assert {
    condition     = can(regex("keepalive_timeout +135s;", base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_DEFAULT_CONF)))
    error_message = "longer than the idle timeout of the load balancer"
  }

  assert {
    condition     = strcontains(base64decode({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_DEFAULT_CONF), "api.example.com")
    error_message = "the host names"
  }
}

run "attester_settings" {
  command = plan

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_BACKEND_URL == "https://kong.internal.example.com:8443" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_LISTEN == "127.0.0.1:8081" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_HEALTH_LISTEN == ":8082" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_NODE_STATUS_URL == "http://127.0.0.8:8080/wallarm-status"
    error_message = "where it listens and asks"
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_NODE_STOP_TIMEOUT == "120s" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_SHUTDOWN_TIMEOUT == "110s" && !contains(keys({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }), "ATTESTER_ALLOW_PLAINTEXT")
    error_message = "times, and TLS"
  }
}

run "gateway_tls" {
  command = plan

  variables {
    gateway_ca_pem       = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    gateway_server_name  = "kong.example.com"
    attester_environment = { ATTESTER_LOG_LEVEL = "debug" }
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_BACKEND_SERVER_NAME == "kong.example.com" && startswith({ for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_BACKEND_CA, "-----BEGIN CERTIFICATE-----") && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_LOG_LEVEL == "debug"
    error_message = "CA, name and further settings"
  }
}

run "other_port_size_and_cloud" {
  command = plan

  variables {
    node_port        = 9090
    cpu              = 4096
    memory           = 8192
    attester_cpu     = 512
    attester_memory  = 512
    wallarm_cloud    = "us1"
    wallarm_group    = "blue"
    cpu_architecture = "ARM64"
    stop_timeout     = 60
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.NGINX_PORT == "9090" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_API_HOST == "us1.api.wallarm.com" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_LABELS == "group=blue" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.SLAB_ALLOC_ARENA == "3.0" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.GATE_WORKER_SHUTDOWN_TIMEOUT == "50s"
    error_message = "the node follows"
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_NODE_STATUS_URL == "http://127.0.0.8:9090/wallarm-status" && { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].environment : e.name => e.value }.ATTESTER_SHUTDOWN_TIMEOUT == "50s" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].portMappings[0].containerPort == 9090
    error_message = "the attester follows"
  }

  assert {
    condition     = aws_lb_target_group.node[0].port == 9090 && aws_ecs_task_definition.this[0].runtime_platform[0].cpu_architecture == "ARM64"
    error_message = "and the load balancer"
  }
}

run "api_host" {
  command = plan

  variables {
    wallarm_api_host = "me1.api.wallarm.com"
  }

  assert {
    condition     = { for e in jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].environment : e.name => e.value }.WALLARM_API_HOST == "me1.api.wallarm.com"
    error_message = "the given host"
  }
}

run "private_registries" {
  command = plan

  variables {
    node_registry_credentials_arn     = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hub-MnOpQr"
    attester_registry_credentials_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:own-StUvWx"
  }

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].repositoryCredentials.credentialsParameter == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hub-MnOpQr" && jsondecode(aws_ecs_task_definition.this[0].container_definitions)[0].repositoryCredentials.credentialsParameter == "arn:aws:secretsmanager:eu-central-1:123456789012:secret:own-StUvWx"
    error_message = "credentials by reference"
  }
}

run "image_by_digest" {
  command = plan

  variables {
    node_image = "docker.io/wallarm/node@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = strcontains(jsondecode(aws_ecs_task_definition.this[0].container_definitions)[1].image, "@sha256:")
    error_message = "accepted"
  }
}

run "service" {
  command = plan

  assert {
    condition     = aws_ecs_service.this[0].launch_type == "FARGATE" && aws_ecs_service.this[0].availability_zone_rebalancing == "ENABLED" && aws_ecs_service.this[0].deployment_circuit_breaker[0].rollback && aws_ecs_service.this[0].deployment_minimum_healthy_percent == 100 && aws_ecs_service.this[0].enable_execute_command == false
    error_message = "deployments roll back, Exec is off"
  }

  assert {
    condition     = one(aws_ecs_service.this[0].load_balancer).container_name == "node" && one(aws_ecs_service.this[0].load_balancer).container_port == 8080
    error_message = "traffic goes to the node"
  }

  assert {
    condition     = length(aws_ecs_service.external_task_definition) == 0
    error_message = "one variant"
  }
}

run "external_task_definition" {
  command = plan

  variables {
    ignore_task_definition_changes = true
  }

  assert {
    condition     = length(aws_ecs_service.this) == 0 && aws_ecs_service.external_task_definition[0].name == "edge"
    error_message = "the other variant"
  }
}

run "own_cluster" {
  command = plan

  assert {
    condition     = aws_ecs_cluster.this[0].name == "edge" && one(aws_ecs_cluster.this[0].setting).value == "enabled"
    error_message = "created, with insights"
  }
}

run "existing_cluster" {
  command = plan

  variables {
    cluster_arn = "arn:aws:ecs:eu-central-1:123456789012:cluster/shared"
  }

  assert {
    condition     = length(aws_ecs_cluster.this) == 0 && aws_ecs_service.this[0].cluster == "arn:aws:ecs:eu-central-1:123456789012:cluster/shared" && output.cluster_name == "shared"
    error_message = "used"
  }

  assert {
    condition     = aws_appautoscaling_target.this[0].resource_id == "service/shared/edge"
    error_message = "and scaled there"
  }
}
