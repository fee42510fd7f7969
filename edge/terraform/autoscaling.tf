# Target tracking of the service's size: CPU, memory, requests per task.

locals {
  autoscaling = var.create && var.autoscaling.enabled
  scaling_targets = !local.autoscaling ? {} : { for k, v in {
    cpu      = { metric = "ECSServiceAverageCPUUtilization", value = var.autoscaling.cpu_target }
    memory   = { metric = "ECSServiceAverageMemoryUtilization", value = var.autoscaling.memory_target }
    requests = { metric = "ALBRequestCountPerTarget", value = var.autoscaling.requests_per_target_minute }
  } : k => v if v.value > 0 }
}

resource "aws_appautoscaling_target" "this" {
  count = local.autoscaling ? 1 : 0

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${local.cluster_name}/${local.service_name}"
  min_capacity       = var.autoscaling.min_capacity
  max_capacity       = var.autoscaling.max_capacity
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "this" {
  for_each = local.scaling_targets

  name               = "${var.name}-${each.key}"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.this[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.this[0].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = each.value.value
    scale_in_cooldown  = var.autoscaling.scale_in_cooldown
    scale_out_cooldown = var.autoscaling.scale_out_cooldown

    predefined_metric_specification {
      predefined_metric_type = each.value.metric
      resource_label         = each.key == "requests" ? "${aws_lb.this[0].arn_suffix}/${aws_lb_target_group.node[0].arn_suffix}" : null
    }
  }
}
