# A CloudWatch dashboard of what the alarms watch, and of what explains them.

locals {
  # Of the account, not of a region, as dashboards are.
  dashboard_name = "${var.name}-${coalesce(local.region, "none")}"

  # CloudWatch's lists of metrics: namespace, name, dimensions, and how to draw it.
  alb = flatten([for k, v in local.lb_dimensions : [k, v]])
  tg  = flatten([for k, v in local.target_dimensions : [k, v]])
  ecs = ["ClusterName", local.cluster_name, "ServiceName", local.service_name]

  dashboard_graphs = [
    {
      title = "Requests a minute"
      metrics = [
        concat(["AWS/ApplicationELB", "RequestCount"], local.alb, [{ label = "requests", stat = "Sum" }]),
      ]
    },
    {
      title = "4xx and 5xx a minute"
      metrics = [
        concat(["AWS/ApplicationELB", "HTTPCode_Target_4XX_Count"], local.tg, [{ label = "4xx of node, attester, gateway", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "HTTPCode_ELB_4XX_Count"], local.alb, [{ label = "4xx of the load balancer", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"], local.tg, [{ label = "5xx of node, attester, gateway", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"], local.alb, [{ label = "5xx of the load balancer", stat = "Sum" }]),
      ]
    },
    {
      title = "Time to answer"
      unit  = "seconds"
      line  = { label = "alarm", value = var.alarms.latency_p99 }
      metrics = [for p in ["p50", "p90", "p99"] :
        concat(["AWS/ApplicationELB", "TargetResponseTime"], local.tg, [{ label = p, stat = p }])
      ]
    },
    {
      title = "Tasks"
      metrics = [
        concat(["AWS/ApplicationELB", "HealthyHostCount"], local.tg, [{ label = "healthy", stat = "Minimum" }]),
        concat(["AWS/ApplicationELB", "UnHealthyHostCount"], local.tg, [{ label = "unhealthy", stat = "Maximum" }]),
        # On Fargate each running task reports once a minute.
        concat(["AWS/ECS", "CPUUtilization"], local.ecs, [{ label = "running", stat = "SampleCount" }]),
      ]
    },
    {
      title = "CPU and memory"
      unit  = "percent"
      line  = { label = "alarm, CPU", value = var.alarms.cpu_percent }
      metrics = [
        concat(["AWS/ECS", "CPUUtilization"], local.ecs, [{ label = "CPU, average", stat = "Average" }]),
        concat(["AWS/ECS", "CPUUtilization"], local.ecs, [{ label = "CPU, highest", stat = "Maximum" }]),
        concat(["AWS/ECS", "MemoryUtilization"], local.ecs, [{ label = "memory, average", stat = "Average" }]),
        concat(["AWS/ECS", "MemoryUtilization"], local.ecs, [{ label = "memory, highest", stat = "Maximum" }]),
      ]
    },
    {
      title = "Inspection: 1 when every task's node inspects"
      line  = { label = "every node inspects", value = 1 }
      metrics = [
        ["WallarmGate/${var.name}", "InspectionActive", { label = "worst task", stat = "Minimum" }],
        ["WallarmGate/${var.name}", "InspectionActive", { label = "share of the tasks", stat = "Average" }],
      ]
    },
    {
      title = "Refused by the load balancer"
      metrics = [
        concat(["AWS/ApplicationELB", "DesyncMitigationMode_NonCompliant_Request_Count"], local.alb, [{ label = "not RFC 7230", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "ClientTLSNegotiationErrorCount"], local.alb, [{ label = "TLS failed", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "RejectedConnectionCount"], local.alb, [{ label = "too many connections", stat = "Sum" }]),
        concat(["AWS/ApplicationELB", "TargetConnectionErrorCount"], local.tg, [{ label = "no connection to a task", stat = "Sum" }]),
      ]
    },
  ]

  # Two to a row of CloudWatch's 24 columns, below the alarms where there are any.
  dashboard_top = var.alarms.enabled ? 3 : 0
  dashboard_body = {
    widgets = concat(
      [for arns in [[for k in sort(keys(aws_cloudwatch_metric_alarm.this)) : aws_cloudwatch_metric_alarm.this[k].arn]] : {
        type       = "alarm", x = 0, y = 0, width = 24, height = local.dashboard_top
        properties = { title = "Alarms", alarms = arns }
      } if length(arns) > 0],
      [for i, g in local.dashboard_graphs : {
        type = "metric", x = 12 * (i % 2), y = local.dashboard_top + 6 * floor(i / 2), width = 12, height = 6
        properties = merge(
          { title = g.title, view = "timeSeries", region = local.region, period = 60, metrics = g.metrics },
          { yAxis = { left = merge({ min = 0 }, try({ label = g.unit, showUnits = false }, {})) } },
          try({ annotations = { horizontal = [g.line] } }, {}),
        )
      }],
      [{
        type = "log", x = 12, y = local.dashboard_top + 18, width = 12, height = 6
        properties = {
          title  = "Nodes that did not inspect"
          view   = "table"
          region = local.region
          query  = "SOURCE '${try(aws_cloudwatch_log_group.this[0].name, "")}' | filter msg = \"inspection\" and active = 0 | fields @timestamp, state, detail, @logStream | sort @timestamp desc | limit 20"
        }
      }],
    )
  }
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.create && var.dashboard ? 1 : 0

  dashboard_name = local.dashboard_name
  dashboard_body = jsonencode(local.dashboard_body)
}
