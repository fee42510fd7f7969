# Aliases of the load balancer in Route 53.

resource "aws_route53_record" "a" {
  for_each = var.create ? var.dns_names : []

  zone_id = var.zone_id
  name    = each.value
  type    = "A"

  alias {
    name                   = aws_lb.this[0].dns_name
    zone_id                = aws_lb.this[0].zone_id
    evaluate_target_health = true
  }
}

resource "aws_route53_record" "aaaa" {
  for_each = var.create && var.ip_address_type == "dualstack" ? var.dns_names : []

  zone_id = var.zone_id
  name    = each.value
  type    = "AAAA"

  alias {
    name                   = aws_lb.this[0].dns_name
    zone_id                = aws_lb.this[0].zone_id
    evaluate_target_health = true
  }
}
