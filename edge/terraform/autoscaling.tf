# The service's size: target tracking of CPU, memory and requests per task, within bounds that
# schedules can change.

locals {
  autoscaling = var.create && var.autoscaling.enabled
  scaling_targets = !local.autoscaling ? {} : { for k, v in {
    cpu      = { metric = "ECSServiceAverageCPUUtilization", value = var.autoscaling.cpu_target }
    memory   = { metric = "ECSServiceAverageMemoryUtilization", value = var.autoscaling.memory_target }
    requests = { metric = "ALBRequestCountPerTarget", value = var.autoscaling.requests_per_target_minute }
  } : k => v if v.value > 0 }
  schedules = local.autoscaling ? var.autoscaling.schedules : {}

  # AWS's cron: minutes, hours, day of month, month, day of week, year. A field is a list of
  # values, ranges or *, with a step; the days know L, W and # as well, and one of them is ?.
  cron_values = {
    minute  = "[1-5]?[0-9]"
    hour    = "(1?[0-9]|2[0-3])"
    day     = "([1-9]|[12][0-9]|3[01])"
    month   = "([1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"
    weekday = "([1-7]|SUN|MON|TUE|WED|THU|FRI|SAT)"
    year    = "(19[7-9][0-9]|20[0-9]{2}|21[0-9]{2})"
  }
  cron_items = merge(
    { for field, value in local.cron_values : field => "(\\*|${value}(-${value})?)(/[1-9][0-9]?)?" },
    {
      day     = "((\\*|${local.cron_values.day}(-${local.cron_values.day})?)(/[1-9][0-9]?)?|LW?|${local.cron_values.day}W)"
      weekday = "((\\*|${local.cron_values.weekday}(-${local.cron_values.weekday})?)(/[1-9][0-9]?)?|${local.cron_values.weekday}?L|${local.cron_values.weekday}#[1-5])"
    },
  )
  cron_field = { for field, item in local.cron_items : field => "${item}(,${item})*" }
  cron = format("^cron\\(%s %s (%s %s \\?|\\? %s %s) %s\\)$",
    local.cron_field.minute, local.cron_field.hour,
    local.cron_field.day, local.cron_field.month,
    local.cron_field.month, local.cron_field.weekday,
    local.cron_field.year,
  )
}

# The bounds as configured. A schedule changes those of the target behind Terraform's back, so the
# target ignores what it finds there and is made anew when these change.
resource "terraform_data" "scaling_bounds" {
  count = local.autoscaling ? 1 : 0

  input = {
    min = var.autoscaling.min_capacity
    max = var.autoscaling.max_capacity
  }
}

resource "aws_appautoscaling_target" "this" {
  count = local.autoscaling ? 1 : 0

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${local.cluster_name}/${local.service_name}"
  min_capacity       = var.autoscaling.min_capacity
  max_capacity       = var.autoscaling.max_capacity
  tags               = var.tags

  lifecycle {
    ignore_changes       = [min_capacity, max_capacity]
    replace_triggered_by = [terraform_data.scaling_bounds]
  }
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

  # AWS drops the policies and schedules of a target that is deregistered.
  lifecycle {
    replace_triggered_by = [aws_appautoscaling_target.this]
  }
}

resource "aws_appautoscaling_scheduled_action" "this" {
  for_each = local.schedules

  name               = "${var.name}-${each.key}"
  service_namespace  = aws_appautoscaling_target.this[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.this[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.this[0].resource_id
  schedule           = each.value.schedule
  timezone           = startswith(each.value.schedule, "rate(") ? null : each.value.timezone

  scalable_target_action {
    min_capacity = each.value.min_capacity
    max_capacity = each.value.max_capacity
  }

  lifecycle {
    replace_triggered_by = [aws_appautoscaling_target.this]
  }
}
