output "url" {
  description = "URL of the edge."
  value       = module.edge.url
}

output "gate_config" {
  description = "The plugin's entry for kong.yml."
  value       = module.edge.gate_config
}

output "chart_values" {
  description = "Values for charts/wallarm-gate."
  value       = module.edge.chart_values
}

output "dashboard_url" {
  description = "Where the dashboard is."
  value       = module.edge.dashboard_url
}
