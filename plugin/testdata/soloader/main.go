// Command soloader opens a Go plugin as Kong's old go-pluginserver did and
// prints what it finds. It is built by the test beside the plugin, because a
// plugin opens only in a program of the very same build.
package main

import (
	"fmt"
	"os"
	"plugin"
)

func main() {
	p, err := plugin.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Version %s\n", *symbol[*string](p, "Version"))
	fmt.Printf("Priority %d\n", *symbol[*int](p, "Priority"))
	config := symbol[func() interface{}](p, "New")()
	_, decodes := config.(interface{ UnmarshalJSON([]byte) error })
	fmt.Printf("New %T, decodes itself: %v\n", config, decodes)
}

func symbol[T any](p *plugin.Plugin, name string) T {
	s, err := p.Lookup(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	v, ok := s.(T)
	if !ok {
		fmt.Fprintf(os.Stderr, "%s is a %T\n", name, s)
		os.Exit(1)
	}
	return v
}
