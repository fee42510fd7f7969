//go:build race

package main

const scaleRequests = 100_000
