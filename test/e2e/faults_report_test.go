package e2e

// docs/faults.md: written from the faults of the suite and what they came to.

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

const reportPath = "docs/faults.md"

const reportHead = `# Faults

## Name

faults - what happens when a part of the gate fails, and what an operator sees of it

## Synopsis

` + "```" + `
make faults                    # run every fault; fails where this page is not current
make faults WRITE=1            # and write this page
GATEWAY=kong make faults       # the same on a real Kong, named by KONG_BIN
` + "```" + `

## Description

Each fault happens to a running system: nginx with the OWASP CRS stand-in as the node, the attester, the gateway with the
plugin, and an upstream that records every request, with the settings of the Terraform module and the chart. All the while four
clients send honest requests through the edge, and two send bad ones straight to the gateway, from inside the edge's network: without
evidence, with the evidence of another request, signed by somebody else under the attester's key id or under an unknown one, and honest
requests once more, as they were recorded between attester and gateway. Every request has a mark of its own.

A request at the upstream is *unverified* unless it is an honest one that came through this edge and arrived at most as often as the
attester had signed it. That number has to be 0: the run fails otherwise, and so it does where a fault did not really happen, where one of
the signs below did not show, or where the gate does not work again within ` + "%v" + `. Where no honest request may suffer, none did.
The one exception is "gateway reloaded, used evidence": there the number is the finding, and has to be more than 0 for as long as this page says so.

`

// render is the whole page; figures are its measured sections.
func render(list []fault, figures []section) string {
	var b strings.Builder
	fmt.Fprintf(&b, reportHead, recoveryLimit)
	b.WriteString("## Faults\n")
	for _, f := range list {
		fmt.Fprintf(&b, "\n### %s\n\n", heading(f.name))
		fmt.Fprintf(&b, "What is done: %s\n\n", f.what)
		fmt.Fprintf(&b, "What happens: %s\n\n", f.result)
		switch {
		case f.unharmed && f.reloads:
			b.WriteString("No honest request suffers on the embedded gateway. A reload of a real Kong ends the plugin's process and starts another, and closes idle\n" +
				"connections: a request in that moment may be answered 500, and one that must not be sent twice, such as a POST, 502.\n\n")
		case f.unharmed:
			b.WriteString("No honest request suffers.\n\n")
		}
		if f.only != nil {
			fmt.Fprintf(&b, "On these gateways only: %s.\n\n", strings.Join(f.only, ", "))
		}
		b.WriteString("What the operator sees:\n\n")
		for _, s := range f.signs {
			if s.metric != "" {
				fmt.Fprintf(&b, "- the metric `%s`\n", s.metric)
			} else {
				fmt.Fprintf(&b, "- in the log of the %s: `%s`\n", s.log, s.line)
			}
		}
		if f.operator != "" {
			fmt.Fprintf(&b, "- %s\n", f.operator)
		}
	}
	b.WriteString(figuresHead)
	for _, s := range figures {
		b.WriteString(s.text)
	}
	return b.String()
}

func heading(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

const figuresHead = `
## Figures

Requests from the beginning of the fault to the recovery. Errors are answers of 500 and above, and connections that broke. The recovery is the
time from the end of the fault to the first of ` + "20" + ` honest answers in a row; ` + "`-`" + ` where no honest request had suffered.
`

// section is what was measured on one kind of gateway.
type section struct {
	kind string
	text string
}

var sectionStart = regexp.MustCompile(`(?m)^### On the gateway "(\w+)"$`)

// sections are those of a page.
func sections(page string) (all []section) {
	at := sectionStart.FindAllStringSubmatchIndex(page, -1)
	for i, m := range at {
		end := len(page)
		if i+1 < len(at) {
			end = at[i+1][0] - 1
		}
		all = append(all, section{kind: page[m[2]:m[3]], text: page[m[0]-1 : end]})
	}
	return all
}

var columns = []string{"fault", "honest sent", "allowed", "refused", "errors", "bad sent", "refused", "errors", "unverified", "recovery"}

func row(name string, f figures) []string {
	recovery := "-"
	if f.suffered {
		recovery = fmt.Sprint(f.recovery.Round(time.Millisecond))
	}
	return []string{
		name, fmt.Sprint(f.honest.sent), fmt.Sprint(f.honest.allowed), fmt.Sprint(f.honest.refused), fmt.Sprint(f.honest.errors),
		fmt.Sprint(f.bad.sent), fmt.Sprint(f.bad.refused), fmt.Sprint(f.bad.errors), fmt.Sprint(f.unverified), recovery,
	}
}

// table is what a terminal shows.
func table(list []fault, results map[string]figures) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	for _, f := range list {
		if got, ok := results[f.name]; ok {
			fmt.Fprintln(w, strings.Join(row(f.name, got), "\t"))
		}
	}
	w.Flush()
	return b.String()
}

// measured is the section of the page for one kind of gateway.
func measured(list []fault, kind string, results map[string]figures) section {
	var b strings.Builder
	fmt.Fprintf(&b, "\n### On the gateway %q\n\n", kind)
	fmt.Fprintf(&b, "Measured on %s, %s, %s/%s, %d cores, %s.\n\n", time.Now().Format(time.DateOnly), runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor())
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), "---|"+strings.Repeat("---:|", len(columns)-1))
	for _, f := range list {
		if got, ok := results[f.name]; ok {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row(f.name, got), " | "))
		}
	}
	return section{kind: kind, text: b.String()}
}

// processor is the model's name, where the system tells it.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// writeFigures writes the page with new figures for one kind of gateway; those of
// the others stay.
func writeFigures(t *testing.T, list []fault, kind string, results map[string]figures) {
	t.Helper()
	path := filepath.Join(root, reportPath)
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	kept := []section{}
	for _, s := range sections(string(old)) {
		if s.kind != kind {
			kept = append(kept, s)
		}
	}
	all := append(kept, measured(list, kind, results))
	if kind == "embedded" { // the default comes first
		all = append([]section{measured(list, kind, results)}, kept...)
	}
	if err := os.WriteFile(path, []byte(render(list, all)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkReport holds the page to the suite: the same texts, and figures of the same
// faults. The figures themselves are what was measured when it was written.
func checkReport(t *testing.T, list []fault) {
	t.Helper()
	const remedy = "run make faults WRITE=1"
	data, err := os.ReadFile(filepath.Join(root, reportPath))
	if err != nil {
		t.Fatalf("%v: %s", err, remedy)
	}
	page := string(data)
	all := sections(page)
	if want := render(list, all); page != want {
		t.Errorf("%s is not what the faults of the suite say; %s\nfirst difference: %s", reportPath, remedy, difference(page, want))
	}
	if len(all) == 0 || all[0].kind != "embedded" {
		t.Errorf("%s has no figures of the embedded gateway: %s", reportPath, remedy)
	}
	for _, s := range all {
		var got, want []string
		for line := range strings.Lines(s.text) {
			if cells := strings.Split(line, " | "); len(cells) == len(columns) && !strings.HasPrefix(line, "| "+columns[0]+" ") {
				got = append(got, strings.TrimPrefix(cells[0], "| "))
			}
		}
		for _, f := range list {
			if f.on(s.kind) {
				want = append(want, f.name)
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s has figures of %q on %s, want %q: %s", reportPath, got, s.kind, want, remedy)
		}
	}
}

func difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d is %q, want %q", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

// TestFaultsPage: each fault has what the page says of it, once.
func TestFaultsPage(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, f := range faults() {
		if names[f.name] || f.what == "" || f.result == "" || f.run == nil || len(f.signs) == 0 && f.operator == "" {
			t.Errorf("the fault %q is there twice, or lacks a part", f.name)
		}
		names[f.name] = true
		for _, s := range f.signs {
			if (s.metric == "") == (s.line == "") || (s.line == "") != (s.log == "") {
				t.Errorf("the fault %q has a sign that is neither a metric nor a line of a log: %+v", f.name, s)
			}
		}
	}
}
