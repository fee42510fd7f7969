package main

// gatectl lint: open doors in declarative configurations of Kong.

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/wallarm-gate/wallarm-gate/internal/kongfile"
)

// linted is the outcome for one file, as --json prints it.
type linted struct {
	File string `json:"file"`
	Open bool   `json:"open"`
	*kongfile.Report
	Error string `json:"error,omitempty"`
}

func runLint(_ context.Context, t *tool, args []string) error {
	flags := t.flags("lint")
	asJSON := flags.Bool("json", false, "print the findings as JSON")
	allowReport := flags.Bool("allow-report", false, "a gate in report mode is no open door; every other one is")
	files, err := flags.parse(args, 1, 1000, "FILE")
	if err != nil {
		return err
	}
	results := []linted{}
	failed := false
	for _, file := range files {
		r := linted{File: file}
		data, err := t.readLimited(file, kongfile.MaxSize)
		if err == nil {
			if r.Report, err = kongfile.Check(data); err != nil {
				err = fmt.Errorf("%s: %w", display(file), err)
			}
		}
		if err != nil {
			r.Error = err.Error()
		} else {
			if *allowReport {
				r.Report.AllowReport()
			}
			r.Open = r.Report.Open()
		}
		failed = failed || err != nil || r.Open
		results = append(results, r)
	}
	if *asJSON {
		enc := json.NewEncoder(t.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(results); err != nil {
			return err
		}
	} else {
		for i, r := range results {
			if len(results) > 1 {
				if i > 0 {
					fmt.Fprintln(t.stdout)
				}
				fmt.Fprintf(t.stdout, "%s:\n", r.File)
			}
			if r.Report == nil {
				fmt.Fprintf(t.stderr, "gatectl: lint: %s\n", r.Error)
			} else if err := r.Fprint(t.stdout); err != nil {
				return err
			}
		}
	}
	if failed {
		return errSilent
	}
	return nil
}
