// Package kongfile reads a declarative configuration of Kong (kong.yml, YAML or
// JSON) and looks for open doors: ways to an upstream on which no enforcing
// wallarm-gate decides.
//
// It applies Kong 3.9's own rules: which instance of a plugin wins on a route,
// what a reference by name or id means, what a plugin's protocols do. It knows
// the file only: not Kong's environment, not what else listens in the network.
package kongfile

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// PluginName is the name under which Kong knows the gate.
const PluginName = "wallarm-gate"

// Severity tells a finding that must stop a roll-out from one to know about.
type Severity string

const (
	// Open: a request can reach an upstream without an enforcing gate's
	// decision, or the file cannot be read so surely that this is ruled out
	// (Kong itself would refuse most of those files).
	Open Severity = "open"
	// Note: the gate decides, but wider than it could, or it denies everything.
	Note Severity = "note"
)

// Finding is one thing that the check found.
type Finding struct {
	Severity Severity `json:"severity"`
	Where    string   `json:"where"` // the entity and its line, where that is known
	What     string   `json:"what"`  // one sentence; holds no secret of the file

	reporting bool // open for a gate in report mode, and for nothing else
}

// Report is the outcome of a check: the findings, open doors first, otherwise
// in the order of the file.
type Report struct {
	Findings []Finding `json:"findings"`
	Routes   int       `json:"routes"` // routes that Kong would serve
	Gates    int       `json:"gates"`  // enabled instances of the gate
}

// Open reports whether a door is open.
func (r *Report) Open() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Open })
}

// AllowReport makes notes of the findings that are open doors for a gate in
// report mode alone, for a roll-out that begins with watching. Every other
// finding stays as it is.
func (r *Report) AllowReport() {
	for i := range r.Findings {
		if r.Findings[i].reporting {
			r.Findings[i].Severity = Note
		}
	}
	r.sort()
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return rank(a.Severity) - rank(b.Severity)
	})
}

// Fprint writes the report as a table and one closing line.
func (r *Report) Fprint(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	open, reporting := 0, false
	for _, f := range r.Findings {
		if f.Severity == Open {
			open++
		}
		reporting = reporting || f.reporting
		fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Severity, f.Where, f.What)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	verdict := fmt.Sprintf("%d open", open)
	switch {
	case open == 0 && reporting:
		verdict = "no door is open but by report mode"
	case open == 0:
		verdict = "no door is open"
	}
	_, err := fmt.Fprintf(w, "%s, %s; %s, %s\n", verdict, count(len(r.Findings)-open, "note"), count(r.Routes, "route"), count(r.Gates, "gate"))
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Check reads a declarative configuration of at most [MaxSize] bytes and
// reports what it found. The error is one sentence and says that data is no
// declarative configuration at all; then nothing was checked.
func Check(data []byte) (*Report, error) {
	root, err := parse(data)
	if err != nil {
		return nil, err
	}
	if root.kind != kindMap {
		return nil, fmt.Errorf("not a declarative configuration: the file holds %s, not a mapping", root.kind)
	}
	switch v := root.get("_format_version"); {
	case v == nil:
		return nil, errors.New(`not a declarative configuration: _format_version is missing (Kong reads "1.1", "2.1" and "3.0")`)
	case v.kind != kindString || v.text != "1.1" && v.text != "2.1" && v.text != "3.0":
		return nil, fmt.Errorf(`_format_version is %s (%s); Kong reads the strings "1.1", "2.1" and "3.0"`, quote(v.text), v.kind)
	}
	c := &check{report: Report{Findings: []Finding{}}}
	c.walk(root, "", owner{})
	c.resolve()
	c.gates()
	c.routes()
	c.services()
	c.others()
	c.report.sort()
	return &c.report, nil
}

func rank(s Severity) int {
	if s == Open {
		return 0
	}
	return 1
}
