# Alarms: errors, health, latency, load, and whether the node inspects.

locals {
  lb_dimensions = !var.create ? {} : {
    LoadBalancer = aws_lb.this[0].arn_suffix
  }
  target_dimensions = !var.create ? {} : merge(local.lb_dimensions, {
    TargetGroup = aws_lb_target_group.node[0].arn_suffix
  })

  alarm_definitions = {
    target-5xx = {
      description = "The node, the attester or the gateway answers with 5xx."
      namespace   = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", dimensions = local.target_dimensions
      statistic   = "Sum", percentile = null, period = 300, periods = 1, datapoints = 1
      operator    = "GreaterThanOrEqualToThreshold", threshold = var.alarms.target_5xx_count, missing = "notBreaching"
    }
    alb-5xx = {
      description = "The load balancer itself answers with 5xx: no task, or one that is too slow."
      namespace   = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", dimensions = local.lb_dimensions
      statistic   = "Sum", percentile = null, period = 300, periods = 1, datapoints = 1
      operator    = "GreaterThanOrEqualToThreshold", threshold = var.alarms.alb_5xx_count, missing = "notBreaching"
    }
    unhealthy-hosts = {
      description = "A task fails the attester's /readyz."
      namespace   = "AWS/ApplicationELB", metric = "UnHealthyHostCount", dimensions = local.target_dimensions
      statistic   = "Maximum", percentile = null, period = 60, periods = 5, datapoints = 5
      operator    = "GreaterThanThreshold", threshold = 0, missing = "notBreaching"
    }
    no-healthy-hosts = {
      description = "No task is healthy: the load balancer now sends to all of them."
      namespace   = "AWS/ApplicationELB", metric = "HealthyHostCount", dimensions = local.target_dimensions
      statistic   = "Maximum", percentile = null, period = 60, periods = 2, datapoints = 2
      operator    = "LessThanThreshold", threshold = 1, missing = "breaching"
    }
    latency-p99 = {
      description = "One request in a hundred takes too long."
      namespace   = "AWS/ApplicationELB", metric = "TargetResponseTime", dimensions = local.target_dimensions
      statistic   = null, percentile = "p99", period = 60, periods = 5, datapoints = 3
      operator    = "GreaterThanThreshold", threshold = var.alarms.latency_p99, missing = "notBreaching"
    }
    cpu = {
      description = "The service runs out of CPU: analyses may reach their time limit."
      namespace   = "AWS/ECS", metric = "CPUUtilization", dimensions = { ClusterName = local.cluster_name, ServiceName = local.service_name }
      statistic   = "Average", percentile = null, period = 60, periods = 5, datapoints = 5
      operator    = "GreaterThanThreshold", threshold = var.alarms.cpu_percent, missing = "missing"
    }
    inspection = {
      description = "A task's node does not inspect, or no task says that it does."
      namespace   = "WallarmGate/${var.name}", metric = "InspectionActive", dimensions = {}
      statistic   = "Minimum", percentile = null, period = 60, periods = 3, datapoints = 2
      operator    = "LessThanThreshold", threshold = 1, missing = "breaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for k, v in local.alarm_definitions : k => v if var.create && var.alarms.enabled }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  extended_statistic  = each.value.percentile
  period              = each.value.period
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.datapoints
  comparison_operator = each.value.operator
  threshold           = each.value.threshold
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarms.topic_arns
  ok_actions          = var.alarms.topic_arns
  tags                = var.tags
}
