//go:build !race

package main

const scaleRequests = 1_000_000
