// Package e2e runs both sides together: the node and the attester as Terraform
// plans them, Kong as the chart renders it, the real plugin in it, and an
// upstream that records everything. README.md says how to choose the gateway.
package e2e
