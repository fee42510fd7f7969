package pluginhost

import "testing"

func TestNormalPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"":                 "",
		"/":                "/",
		"/a":               "/a",
		"/%61%2d%7E":       "/a-~",
		"/%2f%3A%c3":       "/%2F%3A\xc3",
		"/%zz%4":           "/%zz%4",
		"/a/./b/../c":      "/a/c",
		"/a/%2e%2E/c":      "/c",
		"/../../a":         "/a",
		"//a///b":          "/a/b",
		"/a/..":            "/",
		"/a/.":             "/a/",
		"/a/b/..":          "/a/",
		"/a..b":            "/a..b",
		"/...":             "/...",
		"/%25%32%65":       "/%252e",
		"/x;/..;/y":        "/x;/..;/y",
		"/a#frag/../z":     "/z",
		"/healthz/;/..;/a": "/healthz/;/..;/a",
		"/healthz%2f../a":  "/healthz%2F../a",
	} {
		if got := normalPath(path); got != want {
			t.Errorf("%q: got %q want %q", path, got, want)
		}
	}
}

func TestPathOf(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{"/a?b?c": "/a", "?a?b": "?a", "/": "/", "/a#b?c": "/a#b", "": ""} {
		if got := pathOf(target); got != want {
			t.Errorf("%q: got %q want %q", target, got, want)
		}
	}
}

func FuzzNormalPath(f *testing.F) {
	f.Add("/a/%2e%2e//b/./%2F")
	f.Fuzz(func(t *testing.T, path string) {
		if len(path) > 4096 {
			return
		}
		if got := normalPath(path); len(got) > len(path) {
			t.Fatalf("%q grew to %q", path, got)
		}
	})
}
