output "url" {
  description = "URL of the edge."
  value       = module.edge.url
}

output "alb_dns_name" {
  description = "Name to point your DNS record at."
  value       = module.edge.alb_dns_name
}

output "gate_config" {
  description = "The plugin's entry for kong.yml."
  value       = module.edge.gate_config
}

output "chart_values" {
  description = "Values for charts/wallarm-gate."
  value       = module.edge.chart_values
}
