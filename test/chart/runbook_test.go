package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wallarm-gate/wallarm-gate/evidence"
)

// The page of remedies has an anchor for each alert, and for each reason that an alert can be about.
func TestAlertsHaveRemedies(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^#+ (.+)$").FindAllStringSubmatch(string(text), -1) {
		slug := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(slug, " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`<a (?:id|name)="([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
		anchors[m[1]] = true
	}
	for _, a := range alerts(t) {
		anchor := strings.TrimPrefix(a.Annotations["runbook_url"], page+"#")
		if anchor != "{{ $labels.reason }}" && !anchors[anchor] {
			t.Errorf("%s refers to #%s, which %s does not have", a.Alert, anchor, page)
		}
	}
	for _, r := range evidence.Reasons() {
		if !anchors[string(r)] {
			t.Errorf("the alerts on reasons refer to #%s, which %s does not have", r, page)
		}
	}
}
