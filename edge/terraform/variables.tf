# The module's inputs. Each refuses what AWS, the node or the attester would refuse later, with a
# sentence that says what is allowed. Four of them do so in secrets.tf: Terraform's message about a
# variable shows its value, which there may be a secret that belongs somewhere else.

# General

variable "create" {
  description = "Whether to create anything at all."
  type        = bool
  default     = true
  nullable    = false
}

variable "name" {
  description = "Name of the edge; the names of all resources begin with it."
  type        = string
  default     = "wallarm-gate"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name)) && !startswith(var.name, "internal-")
    error_message = "name must be 2 to 24 lower-case letters, digits and hyphens, begin with a letter, end with no hyphen, and not begin with internal- (a load balancer's name must fit)."
  }
}

variable "tags" {
  description = "Tags of all resources."
  type        = map(string)
  default     = {}
  nullable    = false
}

# Network

variable "vpc_id" {
  description = "Id of the VPC."
  type        = string

  validation {
    condition     = !var.create || try(can(regex("^vpc-", var.vpc_id)), false)
    error_message = "vpc_id must be the id of a VPC, vpc-…."
  }
}

variable "alb_subnet_ids" {
  description = "Subnets of the load balancer, at least two, in different zones; public ones unless `internal`."
  type        = list(string)
  nullable    = false

  validation {
    condition     = !var.create || length(var.alb_subnet_ids) >= 2
    error_message = "alb_subnet_ids must name at least two subnets: an application load balancer needs two zones."
  }
}

variable "alb_subnet_cidrs" {
  description = "IPv4 ranges of `alb_subnet_ids`, the only peers that the node believes X-Forwarded-* from. Null looks them up; give them when the subnets are made in the same apply, or the task definition is unknown at plan."
  type        = list(string)
  default     = null

  validation {
    condition     = var.alb_subnet_cidrs == null ? true : length(var.alb_subnet_cidrs) > 0 && alltrue([for c in var.alb_subnet_cidrs : can(cidrnetmask(c)) && try(cidrhost(c, 0) == split("/", c)[0], false) && !endswith(c, "/0") && !startswith(c, "127.")])
    error_message = "alb_subnet_cidrs must be IPv4 ranges such as 10.0.0.0/24, without host bits, other than loopback and other than everybody."
  }
}

variable "task_subnet_ids" {
  description = "Private subnets of the tasks, at least two; they need a way out (NAT, or endpoints with `egress = \"restricted\"`)."
  type        = list(string)
  nullable    = false

  validation {
    condition     = !var.create || length(var.task_subnet_ids) >= 2
    error_message = "task_subnet_ids must name at least two subnets, so that one zone can fail."
  }
}

variable "task_subnet_cidrs" {
  description = "IPv4 ranges of `task_subnet_ids`, used in the gateway's configuration with `gateway_sees = \"task\"`. Null looks them up."
  type        = list(string)
  default     = null

  validation {
    condition     = var.task_subnet_cidrs == null ? true : length(var.task_subnet_cidrs) > 0 && alltrue([for c in var.task_subnet_cidrs : can(cidrnetmask(c)) && try(cidrhost(c, 0) == split("/", c)[0], false) && !endswith(c, "/0")])
    error_message = "task_subnet_cidrs must be IPv4 ranges such as 10.0.10.0/24, without host bits and other than everybody."
  }
}

variable "ingress_cidrs_ipv4" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = list(string)
  default     = ["0.0.0.0/0"]
  nullable    = false

  validation {
    condition     = alltrue([for c in var.ingress_cidrs_ipv4 : can(cidrnetmask(c)) && try(cidrhost(c, 0) == split("/", c)[0], false)])
    error_message = "ingress_cidrs_ipv4 must be IPv4 ranges such as 203.0.113.0/24, without host bits."
  }

  validation {
    condition     = !var.create || length(var.ingress_cidrs_ipv4) + length(var.ingress_cidrs_ipv6) + length(var.ingress_prefix_list_ids) > 0
    error_message = "nobody could reach the load balancer: set at least one of ingress_cidrs_ipv4, ingress_cidrs_ipv6 and ingress_prefix_list_ids."
  }
}

variable "ingress_cidrs_ipv6" {
  description = "IPv6 ranges that may reach the load balancer; needs `ip_address_type = \"dualstack\"`."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.ingress_cidrs_ipv6 : can(cidrhost(c, 0)) && strcontains(c, ":")])
    error_message = "ingress_cidrs_ipv6 must be IPv6 ranges such as 2001:db8::/32."
  }

  validation {
    condition     = length(var.ingress_cidrs_ipv6) == 0 || var.ip_address_type == "dualstack"
    error_message = "ingress_cidrs_ipv6 needs ip_address_type = \"dualstack\"."
  }
}

variable "ingress_prefix_list_ids" {
  description = "Prefix lists that may reach the load balancer, for example that of a CDN."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.ingress_prefix_list_ids : startswith(id, "pl-")])
    error_message = "ingress_prefix_list_ids must be ids of prefix lists, pl-…."
  }
}

variable "egress" {
  description = "Where tasks may go on port 443: `open` to anywhere; `restricted` to Wallarm's cloud, the VPC endpoints and S3 only, with both images in ECR."
  type        = string
  default     = "open"
  nullable    = false

  validation {
    condition     = contains(["open", "restricted"], var.egress)
    error_message = "egress must be open or restricted."
  }

  validation {
    condition     = !var.create || var.egress != "restricted" || length(var.endpoint_security_group_ids) > 0
    error_message = "egress = \"restricted\" needs endpoint_security_group_ids: tasks reach ECR, CloudWatch Logs and Secrets Manager through VPC endpoints only."
  }

  validation {
    condition     = !var.create || var.egress != "restricted" || alltrue([for image in [var.node_image, var.attester_image] : can(regex("\\.dkr\\.ecr\\.", image))])
    error_message = "egress = \"restricted\" needs node_image and attester_image in ECR: no other registry can be reached."
  }
}

variable "endpoint_security_group_ids" {
  description = "Security groups of the VPC endpoints (ecr.api, ecr.dkr, logs, secretsmanager; ssmmessages with ECS Exec), for `egress = \"restricted\"`."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "s3_prefix_list_id" {
  description = "Prefix list of the S3 gateway endpoint, from which ECR serves layers; null looks up AWS's list of the region. For `egress = \"restricted\"`."
  type        = string
  default     = null

  validation {
    condition     = var.s3_prefix_list_id == null ? true : startswith(var.s3_prefix_list_id, "pl-")
    error_message = "s3_prefix_list_id must be the id of a prefix list, pl-…."
  }
}

variable "wallarm_cloud_cidrs" {
  description = "Addresses of the Wallarm cloud for `egress = \"restricted\"`; null takes those that Wallarm publishes for `wallarm_cloud`. Check them against Wallarm's documentation: they change."
  type        = list(string)
  default     = null

  validation {
    condition     = var.wallarm_cloud_cidrs == null ? true : length(var.wallarm_cloud_cidrs) > 0 && alltrue([for c in var.wallarm_cloud_cidrs : can(cidrnetmask(c)) && try(cidrhost(c, 0) == split("/", c)[0], false)])
    error_message = "wallarm_cloud_cidrs must be IPv4 ranges such as 34.96.64.17/32, without host bits."
  }

  validation {
    condition     = !var.create || var.egress != "restricted" || var.wallarm_api_host == null || var.wallarm_cloud_cidrs != null
    error_message = "egress = \"restricted\" with wallarm_api_host needs wallarm_cloud_cidrs: the addresses of that host are not known here."
  }
}

# Load balancer

variable "certificate_arn" {
  description = "ACM certificate of the HTTPS listener."
  type        = string

  validation {
    condition     = !var.create || try(can(regex("^arn:aws[a-z-]*:acm:", var.certificate_arn)), false)
    error_message = "certificate_arn must be the ARN of an ACM certificate: there is no edge without TLS."
  }
}

variable "additional_certificate_arns" {
  description = "Further ACM certificates, chosen by SNI."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.additional_certificate_arns) <= 25
    error_message = "additional_certificate_arns takes at most 25 certificates, the quota of a listener."
  }
}

variable "ssl_policy" {
  description = "Security policy of the HTTPS listener."
  type        = string
  default     = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
  nullable    = false

  validation {
    condition     = can(regex("^ELBSecurityPolicy-TLS13-1-[23]-", var.ssl_policy)) && !strcontains(var.ssl_policy, "-Ext")
    error_message = "ssl_policy must be one of AWS's policies for TLS 1.3 and 1.2 without extended ciphers: ELBSecurityPolicy-TLS13-1-2-… or ELBSecurityPolicy-TLS13-1-3-…."
  }
}

variable "http_redirect" {
  description = "Whether port 80 answers with a redirect (301) to HTTPS; otherwise it is closed."
  type        = bool
  default     = true
  nullable    = false
}

variable "internal" {
  description = "Whether the load balancer has private addresses only."
  type        = bool
  default     = false
  nullable    = false
}

variable "ip_address_type" {
  description = "`ipv4` or `dualstack`, for clients; tasks are always reached over IPv4."
  type        = string
  default     = "ipv4"
  nullable    = false

  validation {
    condition     = contains(["ipv4", "dualstack"], var.ip_address_type)
    error_message = "ip_address_type must be ipv4 or dualstack."
  }
}

variable "idle_timeout" {
  description = "Seconds after which the load balancer closes an idle connection. The node's keepalive is 15 s longer."
  type        = number
  default     = 75
  nullable    = false

  validation {
    condition     = var.idle_timeout >= 10 && var.idle_timeout <= 3600 && floor(var.idle_timeout) == var.idle_timeout
    error_message = "idle_timeout must be 10 to 3600 whole seconds."
  }

  validation {
    condition     = var.idle_timeout >= var.response_timeout + 15
    error_message = "idle_timeout must be at least response_timeout + 15 seconds, or the load balancer gives up before the attester and the node can answer."
  }
}

variable "response_timeout" {
  description = "Seconds that the attester waits for the header of the gateway's response; the node waits 10 s longer."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.response_timeout >= 1 && var.response_timeout <= 3590 && floor(var.response_timeout) == var.response_timeout
    error_message = "response_timeout must be 1 to 3590 whole seconds."
  }
}

variable "desync_mitigation_mode" {
  description = "How the load balancer treats ambiguous requests: `defensive` or `strictest`."
  type        = string
  default     = "defensive"
  nullable    = false

  validation {
    condition     = contains(["defensive", "strictest"], var.desync_mitigation_mode)
    error_message = "desync_mitigation_mode must be defensive or strictest: monitor lets ambiguous requests through."
  }
}

variable "xff_header_processing_mode" {
  description = "How the load balancer treats X-Forwarded-For. Only `append` tells the node the client's address."
  type        = string
  default     = "append"
  nullable    = false

  validation {
    condition     = var.xff_header_processing_mode == "append"
    error_message = "xff_header_processing_mode must be append: preserve lets a client choose its own address, remove hides every client behind the load balancer."
  }
}

variable "deletion_protection" {
  description = "Whether the load balancer is protected against deletion."
  type        = bool
  default     = true
  nullable    = false
}

variable "access_logs" {
  description = "S3 bucket, and optional prefix, of the load balancer's access logs; null: none."
  type = object({
    bucket = string
    prefix = optional(string)
  })
  default = null
}

variable "web_acl_arn" {
  description = "AWS WAF web ACL to put before the load balancer; null: none."
  type        = string
  default     = null

  validation {
    condition     = var.web_acl_arn == null ? true : can(regex("^arn:aws[a-z-]*:wafv2:[a-z0-9-]+:[0-9]{12}:regional/webacl/", var.web_acl_arn))
    error_message = "web_acl_arn must be the ARN of a regional web ACL (wafv2)."
  }
}

variable "health_check" {
  description = "The target group's check of the attester's `/readyz`: seconds and counts."
  type = object({
    interval            = optional(number, 10)
    timeout             = optional(number, 5)
    healthy_threshold   = optional(number, 2)
    unhealthy_threshold = optional(number, 2)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.health_check.interval >= 5 && var.health_check.interval <= 300 && var.health_check.timeout >= 2 && var.health_check.timeout < var.health_check.interval
    error_message = "health_check: interval must be 5 to 300 seconds, timeout at least 2 and below the interval."
  }

  validation {
    condition     = alltrue([for n in values(var.health_check) : floor(n) == n])
    error_message = "health_check: numbers must be whole."
  }

  validation {
    condition     = alltrue([for n in [var.health_check.healthy_threshold, var.health_check.unhealthy_threshold] : n >= 2 && n <= 10])
    error_message = "health_check: healthy_threshold and unhealthy_threshold must be 2 to 10."
  }
}

variable "deregistration_delay" {
  description = "Seconds that a stopping task still gets to finish requests before it is told to stop: your longest normal request."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.deregistration_delay >= 0 && var.deregistration_delay <= 3600 && floor(var.deregistration_delay) == var.deregistration_delay
    error_message = "deregistration_delay must be 0 to 3600 whole seconds."
  }
}

# DNS

variable "zone_id" {
  description = "Route 53 zone for `dns_names`; null: no records."
  type        = string
  default     = null
}

variable "dns_names" {
  description = "Names in `zone_id` that become aliases of the load balancer."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.dns_names) == 0 || var.zone_id != null
    error_message = "dns_names needs zone_id."
  }

  validation {
    condition     = alltrue([for n in var.dns_names : contains(var.server_names, n)])
    error_message = "dns_names must be among server_names: the node answers 421 for any other host."
  }
}

# ECS

variable "cluster_arn" {
  description = "ARN of an existing ECS cluster; null creates one."
  type        = string
  default     = null

  validation {
    condition     = var.cluster_arn == null ? true : can(regex("^arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:cluster/[A-Za-z0-9_-]+$", var.cluster_arn))
    error_message = "cluster_arn must be the ARN of an ECS cluster, arn:aws:ecs:REGION:ACCOUNT:cluster/NAME."
  }
}

variable "container_insights" {
  description = "Container Insights of a cluster that the module creates: `enhanced`, `enabled` or `disabled`."
  type        = string
  default     = "enabled"
  nullable    = false

  validation {
    condition     = contains(["enhanced", "enabled", "disabled"], var.container_insights)
    error_message = "container_insights must be enhanced, enabled or disabled."
  }
}

variable "cpu" {
  description = "CPU units of a task: 1024 are one vCPU."
  type        = number
  default     = 2048
  nullable    = false

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "cpu must be one of Fargate's: 256, 512, 1024, 2048, 4096, 8192, 16384."
  }
}

variable "memory" {
  description = "Memory of a task in MiB. What `attester_memory` leaves is the node's."
  type        = number
  default     = 4096
  nullable    = false

  validation {
    condition = contains(lookup({
      "256"   = [512, 1024, 2048]
      "512"   = range(1024, 4097, 1024)
      "1024"  = range(2048, 8193, 1024)
      "2048"  = range(4096, 16385, 1024)
      "4096"  = range(8192, 30721, 1024)
      "8192"  = range(16384, 61441, 4096)
      "16384" = range(32768, 122881, 8192)
    }, tostring(var.cpu), []), var.memory)
    error_message = "memory (MiB) must go with cpu on Fargate: 256: 512, 1024, 2048; 512: 1024 to 4096; 1024: 2048 to 8192; 2048: 4096 to 16384; 4096: 8192 to 30720, in steps of 1024; 8192: 16384 to 61440 in steps of 4096; 16384: 32768 to 122880 in steps of 8192."
  }
}

variable "attester_cpu" {
  description = "CPU units of the task that the attester is assured of."
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = var.attester_cpu >= 64 && var.attester_cpu <= var.cpu / 2
    error_message = "attester_cpu must be 64 to half of cpu: the node needs the rest."
  }
}

variable "attester_memory" {
  description = "MiB of the task that the attester may use."
  type        = number
  default     = 256
  nullable    = false

  validation {
    condition     = var.attester_memory >= 64 && var.attester_memory <= var.memory / 2
    error_message = "attester_memory must be 64 to half of memory: the node needs the rest."
  }
}

variable "cpu_architecture" {
  description = "`X86_64` or `ARM64`, for both images."
  type        = string
  default     = "X86_64"
  nullable    = false

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "cpu_architecture must be X86_64 or ARM64."
  }
}

variable "platform_version" {
  description = "Fargate platform version."
  type        = string
  default     = "1.4.0"
  nullable    = false

  validation {
    condition     = contains(["1.4.0", "LATEST"], var.platform_version)
    error_message = "platform_version must be 1.4.0 or LATEST."
  }
}

variable "desired_count" {
  description = "Number of tasks at creation. Later changes are ignored: autoscaling, or you, set it."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.desired_count >= 1 && var.desired_count <= 1000 && floor(var.desired_count) == var.desired_count
    error_message = "desired_count must be 1 to 1000 tasks."
  }
}

variable "deployment" {
  description = "Minimum and maximum healthy percent of a deployment."
  type = object({
    minimum_healthy_percent = optional(number, 100)
    maximum_percent         = optional(number, 200)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.deployment.minimum_healthy_percent >= 0 && var.deployment.minimum_healthy_percent <= 100 && var.deployment.maximum_percent > 100 && var.deployment.maximum_percent <= 200
    error_message = "deployment: minimum_healthy_percent must be 0 to 100, maximum_percent above 100 (zone rebalancing needs room) and at most 200."
  }
}

variable "health_check_grace_period_seconds" {
  description = "Seconds during which a new task's failing checks do not count: the node may take 300 s to start."
  type        = number
  default     = 420
  nullable    = false

  validation {
    condition     = var.health_check_grace_period_seconds >= 360 && var.health_check_grace_period_seconds <= 7200
    error_message = "health_check_grace_period_seconds must be 360 to 7200: the node's start alone may take 300."
  }
}

variable "stop_timeout" {
  description = "Seconds that a stopping container has to finish its requests; nginx and the attester cut what remains 10 s earlier."
  type        = number
  default     = 120
  nullable    = false

  validation {
    condition     = var.stop_timeout >= 30 && var.stop_timeout <= 120 && floor(var.stop_timeout) == var.stop_timeout
    error_message = "stop_timeout must be 30 to 120 whole seconds, the limit of Fargate."
  }
}

variable "ignore_task_definition_changes" {
  description = "Whether another tool deploys new task definitions. Changing this replaces the service, with an interruption."
  type        = bool
  default     = false
  nullable    = false
}

variable "enable_execute_command" {
  description = "Whether ECS Exec can open a shell in the node's container. The attester's has a read-only file system and no shell."
  type        = bool
  default     = false
  nullable    = false
}

variable "wait_for_steady_state" {
  description = "Whether `apply` waits until the service is stable."
  type        = bool
  default     = false
  nullable    = false
}

# The node

variable "node_image" {
  description = "Image of the Wallarm node, with a tag other than latest or a digest."
  type        = string
  default     = "docker.io/wallarm/node:6.12.7"
  nullable    = false

  validation {
    condition     = can(regex("^[^\\s@]+(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})$", var.node_image)) && !endswith(var.node_image, ":latest")
    error_message = "node_image must name a tag other than latest, or a digest (…@sha256:…): what runs must not change by itself."
  }
}

variable "node_registry_credentials_arn" {
  description = "Secret with the credentials of the node image's private registry; null: none."
  type        = string
  default     = null

  validation {
    condition     = var.node_registry_credentials_arn == null ? true : can(regex("^arn:aws[a-z-]*:secretsmanager:", var.node_registry_credentials_arn))
    error_message = "node_registry_credentials_arn must be the ARN of a secret in Secrets Manager."
  }
}

variable "node_port" {
  description = "Port of the node, and of its status server on 127.0.0.8."
  type        = number
  default     = 8080
  nullable    = false

  validation {
    condition     = var.node_port >= 1024 && var.node_port <= 65535 && !contains([8081, 8082, 9001, 9003, 9010, 9445, 9446, 3313], var.node_port)
    error_message = "node_port must be 1024 to 65535, and none of 8081, 8082 (attester) or 3313, 9001, 9003, 9010, 9445, 9446 (the node's own services)."
  }
}

variable "server_names" {
  description = "Host names that clients use. The node answers 421 for any other, the load balancer's own name included."
  type        = list(string)
  nullable    = false

  validation {
    condition     = !var.create || length(var.server_names) > 0
    error_message = "server_names must name at least one host: the node answers 421 for every other."
  }

  validation {
    condition     = length(distinct(var.server_names)) == length(var.server_names) && alltrue([for n in var.server_names : length(n) <= 253 && can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", n)) && !contains(["default", "hostnames", "include", "volatile"], n)])
    error_message = "server_names must be different host names in lower case, without port, wildcard and trailing dot."
  }
}

variable "wallarm_mode" {
  description = "Filtration mode: `off`, `monitoring`, `safe_blocking` or `block`. Wallarm's cloud can only tighten it."
  type        = string
  default     = "monitoring"
  nullable    = false

  validation {
    condition     = contains(["off", "monitoring", "safe_blocking", "block"], var.wallarm_mode)
    error_message = "wallarm_mode must be off, monitoring, safe_blocking or block."
  }
}

variable "wallarm_application" {
  description = "Wallarm's application id; -1: none."
  type        = number
  default     = -1
  nullable    = false

  validation {
    condition     = (var.wallarm_application == -1 || (var.wallarm_application >= 1 && var.wallarm_application <= 2147483647)) && floor(var.wallarm_application) == var.wallarm_application
    error_message = "wallarm_application must be -1 or an integer from 1 to 2147483647."
  }
}

variable "wallarm_group" {
  description = "Node group in Wallarm's console (label `group`); null takes `name`."
  type        = string
  default     = null

  validation {
    condition     = var.wallarm_group == null ? true : can(regex("^[A-Za-z0-9._-]{1,64}$", var.wallarm_group))
    error_message = "wallarm_group must be 1 to 64 letters, digits, dots, underscores and hyphens."
  }
}

variable "wallarm_cloud" {
  description = "Wallarm's cloud: `us1` or `eu1`."
  type        = string
  default     = "eu1"
  nullable    = false

  validation {
    condition     = contains(["us1", "eu1"], var.wallarm_cloud)
    error_message = "wallarm_cloud must be us1 or eu1; for another cloud set wallarm_api_host too."
  }
}

variable "wallarm_api_host" {
  description = "Host of Wallarm's API instead of the one of `wallarm_cloud`."
  type        = string
  default     = null

  validation {
    condition     = var.wallarm_api_host == null ? true : can(regex("^[a-z0-9.-]+$", var.wallarm_api_host))
    error_message = "wallarm_api_host must be a host name such as me1.api.wallarm.com, without scheme and path."
  }
}

variable "node_nginx" {
  description = "Settings of the node's nginx; `edge/node/README.md` explains them."
  type = object({
    allow_dot_segments         = optional(bool, false)
    analysis_time_limit_ms     = optional(number, 1000)
    analysis_time_limit_action = optional(string, "on")
    attester_keepalive         = optional(number, 64)
    client_body_buffer_size    = optional(string, "128k")
    client_body_timeout        = optional(number, 60)
    client_header_timeout      = optional(number, 15)
    client_max_body_size       = optional(string, "16m")
    log_query                  = optional(bool, false)
    parse_websocket            = optional(bool, true)
    request_buffering          = optional(bool, true)
    response_buffering         = optional(bool, false)
    worker_connections         = optional(number, 8192)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for s in [var.node_nginx.client_body_buffer_size, var.node_nginx.client_max_body_size] : can(regex("^(0|[1-9][0-9]{0,8}[kmg]?)$", s))]) && var.node_nginx.client_body_buffer_size != "0"
    error_message = "node_nginx: client_body_buffer_size and client_max_body_size must be bytes or a number with k, m or g; 0, for no limit, only in the latter."
  }

  validation {
    condition     = contains(["on", "attack", "off"], var.node_nginx.analysis_time_limit_action) && var.node_nginx.analysis_time_limit_ms >= 0 && var.node_nginx.analysis_time_limit_ms <= 60000
    error_message = "node_nginx: analysis_time_limit_action must be on, attack or off, analysis_time_limit_ms 0 to 60000."
  }

  validation {
    condition     = alltrue([for n in [var.node_nginx.client_body_timeout, var.node_nginx.client_header_timeout] : n >= 1 && n <= 3600]) && var.node_nginx.attester_keepalive >= 1 && var.node_nginx.attester_keepalive <= 4096
    error_message = "node_nginx: client_body_timeout and client_header_timeout must be 1 to 3600 seconds, attester_keepalive 1 to 4096 connections."
  }

  validation {
    condition     = alltrue([for n in [var.node_nginx.analysis_time_limit_ms, var.node_nginx.attester_keepalive, var.node_nginx.client_body_timeout, var.node_nginx.client_header_timeout, var.node_nginx.worker_connections] : floor(n) == n])
    error_message = "node_nginx: numbers must be whole."
  }

  validation {
    condition     = var.node_nginx.worker_connections >= 768 && var.node_nginx.worker_connections <= 65536
    error_message = "node_nginx: worker_connections must be 768 to 65536; each request takes two."
  }
}

variable "node_environment" {
  description = "Further variables of the node's container, for example WALLARM_NODE_UNREGISTER. No secrets: they end up in the state."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for k in keys(var.node_environment) : !startswith(k, "GATE_") && !contains(["NGINX_PORT", "NGINX_BACKEND", "NGINX_EXTERNAL_CONFIG", "SLAB_ALLOC_ARENA", "WALLARM_API_TOKEN", "WALLARM_API_HOST", "WALLARM_LABELS", "WALLARM_MODE", "WALLARM_APPLICATION", "WALLARM_FALLBACK", "WALLARM_IGNORE_REGISTER_ERROR", "WALLARM_STATUS_ALLOW", "DISABLE_IPV6"], k)])
    error_message = "node_environment must not set what the module owns: GATE_*, NGINX_PORT, NGINX_BACKEND, NGINX_EXTERNAL_CONFIG, SLAB_ALLOC_ARENA, DISABLE_IPV6, WALLARM_API_TOKEN, _API_HOST, _LABELS, _MODE, _APPLICATION, _FALLBACK, _IGNORE_REGISTER_ERROR, _STATUS_ALLOW."
  }
}

# The attester and the gateway

variable "attester_image" {
  description = "Image of the attester, with a tag other than latest or a digest; you build and push it (README, step 1)."
  type        = string

  validation {
    condition     = !var.create || try(can(regex("^[^\\s@]+(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})$", var.attester_image)) && !endswith(var.attester_image, ":latest"), false)
    error_message = "attester_image must name a tag other than latest, or a digest (…@sha256:…): build and push it first, the README says how."
  }
}

variable "attester_registry_credentials_arn" {
  description = "Secret with the credentials of the attester image's private registry; null: none."
  type        = string
  default     = null

  validation {
    condition     = var.attester_registry_credentials_arn == null ? true : can(regex("^arn:aws[a-z-]*:secretsmanager:", var.attester_registry_credentials_arn))
    error_message = "attester_registry_credentials_arn must be the ARN of a secret in Secrets Manager."
  }
}

variable "attester_environment" {
  description = "Further ATTESTER_* settings; `edge/attester/README.md` lists them. No secrets: they end up in the state."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    # The attester refuses to start with a variable that it does not know.
    condition     = alltrue([for k in keys(var.attester_environment) : contains([for name in ["BACKEND_CA_FILE", "CLIENT_CERT_FILE", "CLIENT_KEY_FILE", "CONNECTION_MAX_AGE", "DIAL_TIMEOUT", "EARLY_HINTS", "EVIDENCE_LIFETIME", "IDLE_TIMEOUT", "LISTEN_IDLE_TIMEOUT", "LOG_LEVEL", "MAX_HEADER_BYTES", "MAX_IDLE_CONNECTIONS", "METRICS_LISTEN", "NODE_NAME", "NODE_READY_URL", "READY_CHECKS_BACKEND", "RELOAD_INTERVAL", "RULESET_MAX_AGE", "SHUTDOWN_DELAY", "STATUS_INTERVAL", "STATUS_MAX_AGE"] : "ATTESTER_${name}"], k)])
    error_message = "attester_environment must hold ATTESTER_* settings of edge/attester/README.md that the module does not set itself (not LISTEN, ALLOW_REMOTE, HEALTH_LISTEN, BACKEND_URL, ALLOW_PLAINTEXT, BACKEND_CA, BACKEND_SERVER_NAME, SIGNING_JWKS, SIGNING_JWKS_FILE, NODE_STATUS_URL, NODE_STOP_TIMEOUT, RESPONSE_TIMEOUT, SHUTDOWN_TIMEOUT)."
  }
}

variable "gateway_url" {
  description = "The gateway's load balancer, https://host or https://host:port."
  type        = string

  validation {
    condition     = !var.create || try(can(regex("^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?$", var.gateway_url)) && try(tonumber(regex(":([0-9]+)$", var.gateway_url)[0]) <= 65535, true), false)
    error_message = "gateway_url must be https://host or https://host:port with a port up to 65535, without user, path and query."
  }

  validation {
    condition     = !var.create || var.gateway_allow_plaintext || !try(startswith(var.gateway_url, "http://"), false)
    error_message = "gateway_url is http://, which sends evidence and bodies in clear: use https://, or set gateway_allow_plaintext = true."
  }
}

variable "gateway_allow_plaintext" {
  description = "Whether `gateway_url` may be http://."
  type        = bool
  default     = false
  nullable    = false
}

variable "gateway_ca_pem" {
  description = "PEM certificates of the authorities that the gateway's certificate may come from; null: the system's."
  type        = string
  default     = null
}

variable "gateway_server_name" {
  description = "Name in the gateway's certificate; null: the host of `gateway_url`."
  type        = string
  default     = null

  validation {
    condition     = var.gateway_server_name == null ? true : can(regex("^[A-Za-z0-9._-]{1,253}$", var.gateway_server_name))
    error_message = "gateway_server_name must be a host name such as kong.internal.example.com, without scheme and port."
  }
}

variable "gateway_cidrs" {
  description = "IPv4 ranges of the gateway's load balancer: tasks may reach them on the port of `gateway_url`."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.gateway_cidrs : can(cidrnetmask(c)) && try(cidrhost(c, 0) == split("/", c)[0], false) && !endswith(c, "/0")])
    error_message = "gateway_cidrs must be IPv4 ranges such as 10.0.20.0/24, without host bits and other than everybody."
  }

  validation {
    condition     = !var.create || length(var.gateway_cidrs) + length(var.gateway_security_group_ids) > 0
    error_message = "tasks could not reach the gateway: set gateway_cidrs or gateway_security_group_ids."
  }
}

variable "gateway_security_group_ids" {
  description = "Security groups of the gateway's load balancer: tasks may reach them on the port of `gateway_url`."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "gateway_sees" {
  description = "Whose address Kong sees as TCP peer: the `task`'s (the load balancer preserves it) or the `load_balancer`'s."
  type        = string
  default     = "task"
  nullable    = false

  validation {
    condition     = contains(["task", "load_balancer"], var.gateway_sees)
    error_message = "gateway_sees must be task or load_balancer."
  }

  validation {
    condition     = !var.create || var.gateway_sees != "load_balancer" || length(var.gateway_cidrs) > 0
    error_message = "gateway_sees = \"load_balancer\" needs gateway_cidrs: they become the plugin's allowed_sources."
  }
}

# Secrets

variable "wallarm_api_token_secret_arn" {
  description = "Secret with Wallarm's API token (usage type Node deployment); null: the module creates one from `wallarm_api_token`."
  type        = string
  default     = null
}

variable "wallarm_api_token" {
  description = "Wallarm's API token, when the module creates the secret. Never in plan or state: give it at plan and again at apply."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = !var.create || var.wallarm_api_token_secret_arn != null || try(length(var.wallarm_api_token) >= 16, false)
    error_message = "wallarm_api_token must be given (16 characters at least) unless wallarm_api_token_secret_arn is; it is needed at plan and again at apply."
  }
}

variable "wallarm_api_token_version" {
  description = "Raise it to write a new `wallarm_api_token`."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.wallarm_api_token_version >= 1 && floor(var.wallarm_api_token_version) == var.wallarm_api_token_version
    error_message = "wallarm_api_token_version must be a whole number from 1."
  }
}

variable "signing_jwks_secret_arn" {
  description = "Secret with the attester's signing keys, a JWK Set (`gatectl keys`); null: the module creates one from `signing_jwks`."
  type        = string
  default     = null
}

variable "signing_jwks" {
  description = "The signing keys, when the module creates the secret. Never in plan or state: give them at plan and again at apply."
  type        = string
  default     = null
  sensitive   = true
  ephemeral   = true

  validation {
    condition     = !var.create || var.signing_jwks_secret_arn != null || try(anytrue([for k in jsondecode(var.signing_jwks).keys : can(k.d) || can(k.k)]), false)
    error_message = "signing_jwks must be given, a JWK Set with a key that can sign (not the public set), unless signing_jwks_secret_arn is; it is needed at plan and again at apply."
  }
}

variable "signing_jwks_version" {
  description = "Raise it to write new `signing_jwks`."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.signing_jwks_version >= 1 && floor(var.signing_jwks_version) == var.signing_jwks_version
    error_message = "signing_jwks_version must be a whole number from 1."
  }
}

variable "verification_jwks" {
  description = "The PUBLIC JWK Set that goes with the signing keys, for the gateway's configuration; null leaves a vault reference there."
  type        = string
  default     = null
}

variable "secrets_kms_key_arn" {
  description = "KMS key of the secrets, of those given and of those created; null: AWS's own."
  type        = string
  default     = null

  validation {
    condition     = var.secrets_kms_key_arn == null ? true : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.secrets_kms_key_arn))
    error_message = "secrets_kms_key_arn must be the ARN of a KMS key (not of an alias)."
  }
}

variable "secret_recovery_days" {
  description = "Days that a deleted secret can be restored; 0 deletes at once."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.secret_recovery_days == 0 || (var.secret_recovery_days >= 7 && var.secret_recovery_days <= 30)
    error_message = "secret_recovery_days must be 0 or 7 to 30."
  }
}

# IAM

variable "iam_path" {
  description = "Path of the roles."
  type        = string
  default     = "/"
  nullable    = false

  validation {
    condition     = can(regex("^/([!-~]+/)?$", var.iam_path))
    error_message = "iam_path must begin and end with a slash, such as /edge/."
  }
}

variable "permissions_boundary_arn" {
  description = "Permissions boundary of the roles; null: none."
  type        = string
  default     = null

  validation {
    condition     = var.permissions_boundary_arn == null ? true : can(regex("^arn:aws[a-z-]*:iam::([0-9]{12}|aws):policy/", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of an IAM policy."
  }
}

# Logs, scaling, alarms

variable "log_retention_days" {
  description = "Days that the log group keeps events; 0: for ever."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([0, 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of CloudWatch's: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653, or 0 for ever."
  }
}

variable "log_kms_key_arn" {
  description = "KMS key of the log group, whose policy must let CloudWatch Logs use it; null: AWS's own."
  type        = string
  default     = null

  validation {
    condition     = var.log_kms_key_arn == null ? true : can(regex("^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/", var.log_kms_key_arn))
    error_message = "log_kms_key_arn must be the ARN of a KMS key (not of an alias)."
  }
}

variable "autoscaling" {
  description = "Bounds and targets of autoscaling: percent of CPU and memory, and requests per task and minute. A target of 0 is not used. Each entry of `schedules` sets other bounds at its time: `cron(…)`, `rate(…)` or `at(…)`, in an IANA `timezone`."
  type = object({
    enabled                    = optional(bool, true)
    min_capacity               = optional(number, 2)
    max_capacity               = optional(number, 10)
    cpu_target                 = optional(number, 60)
    memory_target              = optional(number, 80)
    requests_per_target_minute = optional(number, 0)
    scale_in_cooldown          = optional(number, 300)
    scale_out_cooldown         = optional(number, 60)
    schedules = optional(map(object({
      schedule     = string
      timezone     = optional(string, "UTC")
      min_capacity = number
      max_capacity = number
    })), {})
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for c in [var.autoscaling.min_capacity, var.autoscaling.max_capacity] : c >= 1 && c <= 5000 && floor(c) == c]) && var.autoscaling.min_capacity <= var.autoscaling.max_capacity
    error_message = "autoscaling: min_capacity and max_capacity must be whole numbers from 1 to 5000 (what ECS allows a service), min_capacity at most max_capacity."
  }

  validation {
    condition     = alltrue([for t in [var.autoscaling.cpu_target, var.autoscaling.memory_target] : t == 0 || (t >= 10 && t <= 95)]) && var.autoscaling.requests_per_target_minute >= 0
    error_message = "autoscaling: cpu_target and memory_target must be 10 to 95 percent, requests_per_target_minute at least 1, or 0 not to be used."
  }

  validation {
    condition     = !var.autoscaling.enabled || anytrue([for t in [var.autoscaling.cpu_target, var.autoscaling.memory_target, var.autoscaling.requests_per_target_minute] : t > 0])
    error_message = "autoscaling needs at least one target, or enabled = false."
  }

  validation {
    condition     = length(var.autoscaling.schedules) == 0 || var.autoscaling.enabled
    error_message = "autoscaling: schedules need enabled = true; there are no bounds to set without it."
  }

  validation {
    condition     = length(var.autoscaling.schedules) <= 200
    error_message = "autoscaling: at most 200 schedules; AWS allows a service no more."
  }

  validation {
    condition     = alltrue([for k in keys(var.autoscaling.schedules) : can(regex("^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", k))])
    error_message = "autoscaling: the name of a schedule must be 1 to 64 letters, digits, hyphens and underscores, the first of them a letter or digit."
  }

  validation {
    condition     = alltrue([for s in var.autoscaling.schedules : alltrue([for c in [s.min_capacity, s.max_capacity] : c >= 1 && c <= 5000 && floor(c) == c]) && s.min_capacity <= s.max_capacity])
    error_message = "autoscaling: min_capacity and max_capacity of a schedule must be whole numbers from 1 to 5000, min_capacity at most max_capacity."
  }

  validation {
    condition = alltrue([for s in var.autoscaling.schedules : anytrue([
      can(regex("^rate\\((1 (minute|hour|day)|([2-9]|[1-9][0-9]{1,3}) (minutes|hours|days))\\)$", s.schedule)),
      can(regex("^at\\([0-9T:-]{19}\\)$", s.schedule)) && can(timeadd("${substr(s.schedule, 3, 19)}Z", "0s")),
      can(regex(local.cron, s.schedule)),
    ])])
    error_message = "autoscaling: schedule must be rate(5 minutes) or rate(1 hour), at(2026-12-24T08:00:00), or cron(minutes hours day-of-month month day-of-week year) with ? for exactly one of the two days, such as cron(0 7 ? * MON-FRI *)."
  }

  validation {
    condition     = alltrue([for s in var.autoscaling.schedules : can(regex("^[A-Za-z]+(/[A-Za-z0-9_+-]+){0,2}$", s.timezone))])
    error_message = "autoscaling: timezone must be the name of an IANA time zone, such as Europe/Berlin or UTC."
  }

  validation {
    condition     = alltrue([for s in var.autoscaling.schedules : !startswith(s.schedule, "rate(") || s.timezone == "UTC"])
    error_message = "autoscaling: a rate has no timezone; it counts for cron and at only."
  }
}

variable "alarms" {
  description = "Alarms, their actions (ARNs of SNS topics) and thresholds: 5xx in five minutes, seconds at the 99th percentile, percent of CPU."
  type = object({
    enabled          = optional(bool, true)
    topic_arns       = optional(list(string), [])
    target_5xx_count = optional(number, 25)
    alb_5xx_count    = optional(number, 25)
    latency_p99      = optional(number, 5)
    cpu_percent      = optional(number, 85)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for a in var.alarms.topic_arns : can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:", a))])
    error_message = "alarms: topic_arns must be ARNs of SNS topics."
  }

  validation {
    condition     = alltrue([for n in [var.alarms.target_5xx_count, var.alarms.alb_5xx_count, var.alarms.latency_p99] : n > 0]) && var.alarms.cpu_percent > 0 && var.alarms.cpu_percent <= 100
    error_message = "alarms: thresholds must be above 0, cpu_percent at most 100."
  }
}

variable "dashboard" {
  description = "Whether to make a CloudWatch dashboard of the edge. AWS bills each dashboard beyond an account's first three."
  type        = bool
  default     = false
  nullable    = false
}
