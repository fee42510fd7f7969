# One log group; the streams of the node and of the attester differ by their prefix.

resource "aws_cloudwatch_log_group" "this" {
  count = var.create ? 1 : 0

  name              = "/wallarm-gate/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

# The attester writes one line a minute: {"msg":"inspection","state":"active","active":1,…}
resource "aws_cloudwatch_log_metric_filter" "inspection" {
  count = var.create ? 1 : 0

  name           = "${var.name}-inspection"
  log_group_name = aws_cloudwatch_log_group.this[0].name
  pattern        = "{ $.msg = \"inspection\" }"

  metric_transformation {
    namespace = "WallarmGate/${var.name}"
    name      = "InspectionActive"
    value     = "$.active"
  }
}
