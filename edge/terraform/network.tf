# Security groups: clients -> load balancer -> tasks -> gateway, and tasks -> 443. One resource
# for each rule; nothing else is open.

data "aws_subnet" "alb" {
  # A count: for_each would refuse subnets that are made in the same apply.
  count = var.create && var.alb_subnet_cidrs == null ? length(var.alb_subnet_ids) : 0
  id    = var.alb_subnet_ids[count.index]

  lifecycle {
    postcondition {
      condition     = self.vpc_id == var.vpc_id
      error_message = "alb_subnet_ids: ${self.id} is not in vpc_id."
    }
  }
}

data "aws_subnet" "task" {
  count = var.create && var.task_subnet_cidrs == null ? length(var.task_subnet_ids) : 0
  id    = var.task_subnet_ids[count.index]

  lifecycle {
    postcondition {
      condition     = self.vpc_id == var.vpc_id
      error_message = "task_subnet_ids: ${self.id} is not in vpc_id."
    }
  }
}

# AWS's own list of the region's S3 addresses.
data "aws_ec2_managed_prefix_list" "s3" {
  count = var.create && var.egress == "restricted" && var.s3_prefix_list_id == null ? 1 : 0
  name  = "com.amazonaws.${local.region}.s3"
}

locals {
  alb_cidrs  = var.alb_subnet_cidrs != null ? var.alb_subnet_cidrs : data.aws_subnet.alb[*].cidr_block
  task_cidrs = var.task_subnet_cidrs != null ? var.task_subnet_cidrs : data.aws_subnet.task[*].cidr_block

  # As published for Wallarm nodes: API and node data hosts of each cloud.
  published_cidrs = {
    us1 = ["34.96.64.17/32", "34.110.183.149/32", "35.235.66.155/32", "34.102.90.100/32", "34.94.156.115/32", "35.235.115.105/32"]
    eu1 = ["34.160.38.183/32", "34.144.227.90/32", "34.90.110.226/32"]
  }
  cloud_cidrs = var.wallarm_cloud_cidrs != null ? var.wallarm_cloud_cidrs : local.published_cidrs[var.wallarm_cloud]

  listener_ports = var.http_redirect ? [443, 80] : [443]
  listener_rules = !var.create ? {} : merge(
    { for p in setproduct(local.listener_ports, var.ingress_cidrs_ipv4) : "${p[0]} ${p[1]}" => { port = p[0], ipv4 = p[1], ipv6 = null, list = null } },
    { for p in setproduct(local.listener_ports, var.ingress_cidrs_ipv6) : "${p[0]} ${p[1]}" => { port = p[0], ipv4 = null, ipv6 = p[1], list = null } },
    { for p in setproduct(local.listener_ports, var.ingress_prefix_list_ids) : "${p[0]} ${p[1]}" => { port = p[0], ipv4 = null, ipv6 = null, list = p[1] } },
  )

  # The load balancer speaks to the node, and to the attester's health listener.
  target_ports = var.create ? { node = var.node_port, health = local.health_port } : {}
}

resource "aws_security_group" "alb" {
  count = var.create ? 1 : 0

  name        = "${var.name}-alb"
  description = "Load balancer of the edge ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-alb" })
}

resource "aws_vpc_security_group_ingress_rule" "alb" {
  for_each = local.listener_rules

  security_group_id = aws_security_group.alb[0].id
  description       = each.value.port == 80 ? "clients, redirected to HTTPS" : "clients"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.ipv4
  cidr_ipv6         = each.value.ipv6
  prefix_list_id    = each.value.list
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "alb" {
  for_each = local.target_ports

  security_group_id            = aws_security_group.alb[0].id
  description                  = "to the tasks: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = aws_security_group.task[0].id
  tags                         = var.tags
}

resource "aws_security_group" "task" {
  count = var.create ? 1 : 0

  name        = "${var.name}-task"
  description = "Tasks of the edge ${var.name}"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-task" })
}

resource "aws_vpc_security_group_ingress_rule" "task" {
  for_each = local.target_ports

  security_group_id            = aws_security_group.task[0].id
  description                  = "from the load balancer: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  referenced_security_group_id = aws_security_group.alb[0].id
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "gateway_cidr" {
  for_each = var.create ? toset(var.gateway_cidrs) : []

  security_group_id = aws_security_group.task[0].id
  description       = "to the gateway"
  ip_protocol       = "tcp"
  from_port         = local.gateway_port
  to_port           = local.gateway_port
  cidr_ipv4         = each.value
  tags              = var.tags
}

# A count: the groups may be made in the same apply.
resource "aws_vpc_security_group_egress_rule" "gateway_group" {
  count = var.create ? length(var.gateway_security_group_ids) : 0

  security_group_id            = aws_security_group.task[0].id
  description                  = "to the gateway"
  ip_protocol                  = "tcp"
  from_port                    = local.gateway_port
  to_port                      = local.gateway_port
  referenced_security_group_id = var.gateway_security_group_ids[count.index]
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "https" {
  count = var.create && var.egress == "open" ? 1 : 0

  security_group_id = aws_security_group.task[0].id
  description       = "Wallarm cloud, image registries, AWS APIs"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0" # registries have no fixed ranges; egress = "restricted" is the closed alternative
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "wallarm" {
  for_each = var.create && var.egress == "restricted" ? toset(local.cloud_cidrs) : []

  security_group_id = aws_security_group.task[0].id
  description       = "Wallarm cloud"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "endpoint" {
  count = var.create && var.egress == "restricted" ? length(var.endpoint_security_group_ids) : 0

  security_group_id            = aws_security_group.task[0].id
  description                  = "VPC endpoints"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = var.endpoint_security_group_ids[count.index]
  tags                         = var.tags
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  count = var.create && var.egress == "restricted" ? 1 : 0

  security_group_id = aws_security_group.task[0].id
  description       = "S3, for the layers of images in ECR"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = var.s3_prefix_list_id != null ? var.s3_prefix_list_id : data.aws_ec2_managed_prefix_list.s3[0].id
  tags              = var.tags
}
