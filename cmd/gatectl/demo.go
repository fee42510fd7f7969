package main

import "context"

const demoSynopsis = "[--json] [--verbose] [--serve] [--plugin FILE] [--attester FILE]"

func runDemo(context.Context, *tool, []string) error { return nil }
