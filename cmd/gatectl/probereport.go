package main

// What the probe found, as a table, as JSON and as JUnit XML.

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"text/tabwriter"
)

// result is what a check came to.
type result string

const (
	resultOK      result = "ok"      // as expected
	resultFail    result = "fail"    // a door is open, or what must work does not
	resultUnknown result = "unknown" // could not be determined: never a pass
	resultNote    result = "note"    // worth knowing, no failure
)

func (r result) mark() string {
	switch r {
	case resultOK, resultNote:
		return string(r)
	case resultFail:
		return "FAIL"
	}
	return "?"
}

// finding is one check, as --json prints it.
type finding struct {
	Result   result `json:"result"`
	Place    string `json:"place"` // edge, or the origin's URL
	Check    string `json:"check"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
}

// probeReport is everything that a probe found.
type probeReport struct {
	Checks       []finding `json:"checks"`
	OK           int       `json:"ok"`
	Failed       int       `json:"failed"`
	Undetermined int       `json:"undetermined"`
	Notes        int       `json:"notes"`
	Requests     int       `json:"requests"` // sent over HTTP
}

func (r *probeReport) add(f finding) {
	f.Got = shown(f.Got)
	switch f.Result {
	case resultOK:
		r.OK++
	case resultFail:
		r.Failed++
	case resultNote:
		r.Notes++
	default:
		f.Result = resultUnknown
		r.Undetermined++
	}
	r.Checks = append(r.Checks, f)
}

func (r *probeReport) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	place := ""
	for _, f := range r.Checks {
		if f.Place != place {
			if place != "" {
				w.Flush() // columns are as wide as their own place needs
				fmt.Fprintln(out)
			}
			place = f.Place
			fmt.Fprintln(out, place)
		}
		fmt.Fprintf(w, "%-4s\t%s\t%s\t%s\n", f.Result.mark(), f.Check, f.Expected, f.Got)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d ok, %d failed, %d not determined, %d notes; %d requests\n", r.OK, r.Failed, r.Undetermined, r.Notes, r.Requests)
	return err
}

func (r *probeReport) json(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// junit writes a failed check as a failure and one that could not be determined
// as an error.
func (r *probeReport) junit(out io.Writer) error {
	type problem struct {
		Message string `xml:"message,attr"`
	}
	type testcase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Failure *problem `xml:"failure,omitempty"`
		Error   *problem `xml:"error,omitempty"`
		Out     string   `xml:"system-out,omitempty"`
	}
	suite := struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Cases    []testcase `xml:"testcase"`
	}{Name: "gatectl probe", Tests: len(r.Checks), Failures: r.Failed, Errors: r.Undetermined}
	for _, f := range r.Checks {
		c := testcase{Class: f.Place, Name: f.Check, Out: f.Got}
		switch why := (&problem{"expected " + f.Expected + ", got " + f.Got}); f.Result {
		case resultFail:
			c.Failure = why
		case resultUnknown:
			c.Error = why
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(out)
	enc.Indent("", "  ")
	if err := enc.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\n")
	return err
}
