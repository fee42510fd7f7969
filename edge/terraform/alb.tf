# The load balancer: TLS for clients, health of the attester, nothing by path or header.

resource "aws_lb" "this" {
  count = var.create ? 1 : 0

  name               = var.name
  load_balancer_type = "application"
  #tfsec:ignore:aws-elb-alb-not-public An edge faces clients; internal = true is the closed alternative.
  internal        = var.internal
  ip_address_type = var.ip_address_type
  security_groups = [aws_security_group.alb[0].id]
  subnets         = var.alb_subnet_ids
  idle_timeout    = var.idle_timeout

  drop_invalid_header_fields = true
  desync_mitigation_mode     = var.desync_mitigation_mode
  enable_xff_client_port     = false
  xff_header_processing_mode = var.xff_header_processing_mode
  preserve_host_header       = true

  enable_deletion_protection = var.deletion_protection
  tags                       = var.tags

  dynamic "access_logs" {
    for_each = var.access_logs[*]

    content {
      enabled = true
      bucket  = access_logs.value.bucket
      prefix  = access_logs.value.prefix
    }
  }

  lifecycle {
    precondition {
      condition     = length(data.aws_subnet.alb) == 0 || length(distinct(data.aws_subnet.alb[*].availability_zone)) >= 2
      error_message = "alb_subnet_ids must lie in at least two availability zones."
    }
  }
}

resource "aws_lb_target_group" "node" {
  count = var.create ? 1 : 0

  # The port is part of the name: another port needs another group beside the old one.
  name                 = "${var.name}-${var.node_port}"
  target_type          = "ip"
  protocol             = "HTTP"
  protocol_version     = "HTTP1"
  port                 = var.node_port
  vpc_id               = var.vpc_id
  deregistration_delay = var.deregistration_delay
  tags                 = var.tags

  # Of the attester, not of the node: its /readyz also says whether the node inspects.
  health_check {
    protocol            = "HTTP"
    port                = local.health_port
    path                = "/readyz"
    matcher             = "200"
    interval            = var.health_check.interval
    timeout             = var.health_check.timeout
    healthy_threshold   = var.health_check.healthy_threshold
    unhealthy_threshold = var.health_check.unhealthy_threshold
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_listener" "https" {
  count = var.create ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  port              = 443
  protocol          = "HTTPS"
  certificate_arn   = var.certificate_arn
  ssl_policy        = var.ssl_policy
  tags              = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.node[0].arn
  }
}

# A count: the certificates may be made in the same apply.
resource "aws_lb_listener_certificate" "additional" {
  count = var.create ? length(var.additional_certificate_arns) : 0

  listener_arn    = aws_lb_listener.https[0].arn
  certificate_arn = var.additional_certificate_arns[count.index]
}

resource "aws_lb_listener" "http" {
  count = var.create && var.http_redirect ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  port              = 80
  protocol          = "HTTP"
  tags              = var.tags

  default_action {
    type = "redirect"

    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_wafv2_web_acl_association" "this" {
  count = var.create && var.web_acl_arn != null ? 1 : 0

  resource_arn = aws_lb.this[0].arn
  web_acl_arn  = var.web_acl_arn
}
