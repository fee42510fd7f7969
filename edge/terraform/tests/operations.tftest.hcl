# Logs, scaling, alarms.

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

run "logs" {
  command = plan

  assert {
    condition     = aws_cloudwatch_log_group.this[0].name == "/wallarm-gate/edge" && aws_cloudwatch_log_group.this[0].retention_in_days == 30
    error_message = "kept for a month"
  }

  assert {
    condition     = alltrue([for c in jsondecode(aws_ecs_task_definition.this[0].container_definitions) : c.logConfiguration.logDriver == "awslogs" && c.logConfiguration.options["awslogs-group"] == "/wallarm-gate/edge" && c.logConfiguration.options["awslogs-stream-prefix"] == c.name && c.logConfiguration.options.mode == "non-blocking"])
    error_message = "each container its stream"
  }
}

run "log_key_and_retention" {
  command = plan

  variables {
    log_retention_days = 365
    log_kms_key_arn    = "arn:aws:kms:eu-central-1:123456789012:key/12345678-1234-1234-1234-123456789012"
  }

  assert {
    condition     = aws_cloudwatch_log_group.this[0].retention_in_days == 365 && aws_cloudwatch_log_group.this[0].kms_key_id == var.log_kms_key_arn
    error_message = "passed on"
  }
}

run "scaling" {
  command = plan

  assert {
    condition     = aws_appautoscaling_target.this[0].min_capacity == 2 && aws_appautoscaling_target.this[0].max_capacity == 10
    error_message = "bounds"
  }

  assert {
    condition     = toset(keys(aws_appautoscaling_policy.this)) == toset(["cpu", "memory"])
    error_message = "CPU and memory"
  }
}

run "scaling_by_requests" {
  command = plan

  variables {
    autoscaling = { cpu_target = 0, memory_target = 0, requests_per_target_minute = 3000 }
  }

  assert {
    condition     = keys(aws_appautoscaling_policy.this) == ["requests"] && aws_appautoscaling_policy.this["requests"].target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].resource_label == "app/edge/50dc6c495c0c9188/targetgroup/edge/6d0ecf831eec9f09"
    error_message = "the load balancer and its group"
  }
}

run "no_scaling" {
  command = plan

  variables {
    autoscaling = { enabled = false }
  }

  assert {
    condition     = length(aws_appautoscaling_target.this) + length(aws_appautoscaling_policy.this) + length(aws_appautoscaling_scheduled_action.this) + length(terraform_data.scaling_bounds) == 0
    error_message = "none"
  }
}

run "scaling_on_schedule" {
  command = plan

  variables {
    autoscaling = {
      schedules = {
        day   = { schedule = "cron(0 7 ? * MON-FRI *)", timezone = "Europe/Berlin", min_capacity = 6, max_capacity = 30 }
        night = { schedule = "cron(0 20 * * ? *)", timezone = "Europe/Berlin", min_capacity = 2, max_capacity = 10 }
        sale  = { schedule = "at(2026-11-27T06:00:00)", min_capacity = 20, max_capacity = 60 }
        floor = { schedule = "rate(12 hours)", min_capacity = 2, max_capacity = 10 }
      }
    }
  }

  assert {
    condition     = { for k, a in aws_appautoscaling_scheduled_action.this : k => [a.name, a.schedule, coalesce(a.timezone, "none"), a.scalable_target_action[0].min_capacity, a.scalable_target_action[0].max_capacity] } == { day = ["edge-day", "cron(0 7 ? * MON-FRI *)", "Europe/Berlin", "6", "30"], night = ["edge-night", "cron(0 20 * * ? *)", "Europe/Berlin", "2", "10"], sale = ["edge-sale", "at(2026-11-27T06:00:00)", "UTC", "20", "60"], floor = ["edge-floor", "rate(12 hours)", "none", "2", "10"] }
    error_message = "an action each, a rate without a timezone"
  }

  assert {
    condition     = alltrue([for a in aws_appautoscaling_scheduled_action.this : a.resource_id == aws_appautoscaling_target.this[0].resource_id && a.service_namespace == "ecs" && a.scalable_dimension == "ecs:service:DesiredCount"])
    error_message = "of the service"
  }
}

run "cron" {
  command = plan

  variables {
    autoscaling = { schedules = {
      steps   = { schedule = "cron(0/15 8-18/2 ? JAN,MAR-MAY 2-6 2026-2030)", min_capacity = 2, max_capacity = 10 }
      last    = { schedule = "cron(59 23 L * ? *)", min_capacity = 2, max_capacity = 10 }
      workday = { schedule = "cron(0 6,18 15W,LW * ? *)", min_capacity = 2, max_capacity = 10 }
      nth     = { schedule = "cron(0 0 ? 12 SUN#2,6L *)", min_capacity = 2, max_capacity = 10 }
    } }
  }

  assert {
    condition     = length(aws_appautoscaling_scheduled_action.this) == 4
    error_message = "every form of AWS's cron"
  }
}

run "alarms" {
  command = plan

  variables {
    alarms = { topic_arns = ["arn:aws:sns:eu-central-1:123456789012:alarms"] }
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["target-5xx", "alb-5xx", "unhealthy-hosts", "no-healthy-hosts", "latency-p99", "cpu", "inspection"])
    error_message = "seven"
  }

  assert {
    condition     = alltrue([for a in aws_cloudwatch_metric_alarm.this : a.alarm_actions == toset(["arn:aws:sns:eu-central-1:123456789012:alarms"]) && a.ok_actions == a.alarm_actions])
    error_message = "to the topic"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["no-healthy-hosts"].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.this["latency-p99"].extended_statistic == "p99"
    error_message = "missing data and percentile"
  }
}

run "inspection_alarm" {
  command = plan

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["inspection"].statistic == "Minimum" && aws_cloudwatch_metric_alarm.this["inspection"].threshold == 1 && aws_cloudwatch_metric_alarm.this["inspection"].comparison_operator == "LessThanThreshold" && aws_cloudwatch_metric_alarm.this["inspection"].evaluation_periods == 3 && aws_cloudwatch_metric_alarm.this["inspection"].datapoints_to_alarm == 2 && aws_cloudwatch_metric_alarm.this["inspection"].period == 60 && aws_cloudwatch_metric_alarm.this["inspection"].treat_missing_data == "breaching"
    error_message = "one task that does not inspect is enough, silence too"
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["inspection"].namespace == aws_cloudwatch_log_metric_filter.inspection[0].metric_transformation[0].namespace && aws_cloudwatch_metric_alarm.this["inspection"].metric_name == aws_cloudwatch_log_metric_filter.inspection[0].metric_transformation[0].name && aws_cloudwatch_log_metric_filter.inspection[0].metric_transformation[0].value == "$.active"
    error_message = "alarm and filter speak of the same metric"
  }
}

run "no_alarms" {
  command = plan

  variables {
    alarms = { enabled = false }
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0
    error_message = "none"
  }
}

run "no_dashboard" {
  command = plan

  assert {
    condition     = length(aws_cloudwatch_dashboard.this) == 0 && output.dashboard_name == null && output.dashboard_url == null
    error_message = "none unless asked for"
  }
}

run "dashboard" {
  command = plan

  variables {
    dashboard = true
  }

  assert {
    condition     = output.dashboard_name == "edge-eu-central-1" && output.dashboard_url == "https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1#dashboards/dashboard/edge-eu-central-1"
    error_message = "a name of its region: dashboards belong to the account"
  }

  assert {
    condition     = [for w in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : w.type] == ["alarm", "metric", "metric", "metric", "metric", "metric", "metric", "metric", "log"]
    error_message = "the alarms, seven graphs, the log"
  }

  assert {
    condition     = length(jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets[0].properties.alarms) == 7
    error_message = "every alarm"
  }

  assert {
    condition     = alltrue([for m in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets[6].properties.metrics : m[0] == aws_cloudwatch_log_metric_filter.inspection[0].metric_transformation[0].namespace && m[1] == aws_cloudwatch_log_metric_filter.inspection[0].metric_transformation[0].name])
    error_message = "graph and filter speak of the same metric"
  }
}

run "dashboard_without_alarms" {
  command = plan

  variables {
    dashboard = true
    alarms    = { enabled = false }
  }

  assert {
    condition     = [for w in jsondecode(aws_cloudwatch_dashboard.this[0].dashboard_body).widgets : "${w.type} ${w.y}"] == ["metric 0", "metric 0", "metric 6", "metric 6", "metric 12", "metric 12", "metric 18", "log 18"]
    error_message = "the graphs alone, from the top"
  }
}

run "dashboard_of_nothing" {
  command = plan

  variables {
    create    = false
    dashboard = true
  }

  assert {
    condition     = length(aws_cloudwatch_dashboard.this) == 0 && output.dashboard_url == null
    error_message = "none"
  }
}

run "dashboard_in_china" {
  command = plan

  variables {
    dashboard = true
  }

  override_data {
    target = data.aws_partition.current[0]
    values = { partition = "aws-cn", dns_suffix = "amazonaws.com.cn" }
  }

  override_data {
    target = data.aws_region.current[0]
    values = { region = "cn-north-1" }
  }

  assert {
    condition     = output.dashboard_url == "https://cn-north-1.console.amazonaws.cn/cloudwatch/home?region=cn-north-1#dashboards/dashboard/edge-cn-north-1"
    error_message = "its own console"
  }
}
