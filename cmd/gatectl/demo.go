package main

// gatectl demo: starts the whole way of a request, runs the scenarios, prints
// what came of each.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"
)

const demoSynopsis = "[--json] [--verbose] [--serve] [--plugin FILE] [--attester FILE]"

// demoResult is one scenario's outcome, as --json prints it.
type demoResult struct {
	Scenario string `json:"scenario"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
	Reason   string `json:"reason,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Holds    bool   `json:"holds"`
	Error    string `json:"error,omitempty"`
}

func runDemo(ctx context.Context, t *tool, args []string) error {
	flags := t.flags("demo")
	asJSON := flags.Bool("json", false, "print the outcomes as JSON")
	verbose := flags.Bool("verbose", false, "print the logs of plugin and attester to the standard error")
	serve := flags.Bool("serve", false, "run no scenario; keep everything running and print curl lines")
	plugin := flags.String("plugin", "", "`file` of the plugin binary (default: built with go build)")
	attester := flags.String("attester", "", "`file` of the attester binary (default: built with go build)")
	if _, err := flags.parse(args, 0, 0, ""); err != nil {
		return err
	}
	if *serve && *asJSON {
		return usagef("--serve and --json exclude each other")
	}
	for _, o := range []struct {
		name string
		file *string
	}{{"--plugin", plugin}, {"--attester", attester}} {
		if *o.file == "" {
			continue
		}
		st, err := os.Stat(*o.file)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, cause(*o.file, err))
		}
		if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
			return fmt.Errorf("%s: %s: not an executable file", o.name, *o.file)
		}
		// A bare name would be looked for in PATH.
		if *o.file, err = filepath.Abs(*o.file); err != nil {
			return err
		}
	}
	logs := io.Discard
	if *verbose {
		logs = &lockedWriter{w: t.stderr}
	}
	if *plugin == "" || *attester == "" {
		fmt.Fprintln(t.stderr, "gatectl: demo: building with go build")
	}
	s, err := startSite(ctx, *plugin, *attester, logs)
	if err != nil {
		return err
	}
	defer s.close()
	if *serve {
		s.explain(t.stdout, os.Args[0])
		<-ctx.Done()
		return nil
	}
	list := scenarios()
	results := make([]demoResult, 0, len(list))
	held := 0
	for _, sc := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		o, err := sc.run(ctx, s)
		r := demoResult{Scenario: sc.name, Expected: sc.want, Got: o.got, Reason: o.reason, Detail: o.detail, Holds: err == nil && sc.holds(o)}
		if err != nil {
			r.Error = err.Error()
		}
		if r.Holds {
			held++
		}
		results = append(results, r)
		if !*asJSON {
			printResult(t.stdout, list, r)
		}
	}
	if *asJSON {
		enc := json.NewEncoder(t.stdout)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(map[string]any{"scenarios": results, "held": held, "total": len(results)})
	} else {
		_, err = fmt.Fprintf(t.stdout, "\n%d of %d scenarios hold\n", held, len(results))
	}
	if err != nil {
		return err
	}
	if held != len(results) {
		return errSilent
	}
	return nil
}

// printResult prints one aligned line: mark, scenario, expected, got, reason.
func printResult(w io.Writer, list []scenario, r demoResult) {
	name, want := 0, 0
	for _, sc := range list {
		name, want = max(name, utf8.RuneCountInString(sc.name)), max(want, len(sc.want))
	}
	mark := "ok  "
	if !r.Holds {
		mark = "FAIL"
	}
	fmt.Fprintf(w, "%s  %-*s  %-*s  %s", mark, name, r.Scenario, want, r.Expected, r.Got)
	if r.Reason != "" {
		fmt.Fprintf(w, "  %s", r.Reason)
	}
	if r.Detail != "" {
		fmt.Fprintf(w, "  %s", r.Detail)
	}
	if r.Error != "" {
		fmt.Fprintf(w, "  (%s)", r.Error)
	}
	fmt.Fprintln(w)
}

// explain prints what to try by hand, with gatectl as it was called.
func (s *site) explain(w io.Writer, gatectl string) {
	fmt.Fprintf(w, `edge     http://%[1]s  the OWASP CRS stand-in and the attester
gateway  http://%[2]s  plays Kong around the plugin
keys     %[3]s

# through the edge: 200
curl -i http://%[1]s/orders
# around it: 403
curl -i http://%[2]s/orders
# an attack: stopped at the edge
curl -i -G http://%[1]s/orders --data-urlencode 'q=<script>alert(1)</script>'
# evidence made by hand: 200, and 403 when the same is sent again
%[4]s sign --keys %[3]s --url http://%[2]s/orders --curl | curl -i -K -
# exempt
curl -i http://%[2]s/healthz

Interrupt to stop.
`, s.edge, s.gateway, s.attesterKeys, gatectl)
}

// lockedWriter keeps the lines of several processes apart.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
