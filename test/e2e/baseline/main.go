// Baseline is the cheapest Kong plugin in Go that there is: it asks Kong for a
// variable as often as it is told, and does nothing with the answers. The
// benchmarks compare the gate with it.
package main

import (
	"fmt"
	"os"

	"github.com/Kong/go-pdk"
	"github.com/Kong/go-pdk/server"
)

// Config says how many round trips to Kong each request costs.
type Config struct {
	Calls int `json:"calls"`
}

// Access makes the calls.
func (c *Config) Access(kong *pdk.PDK) {
	for range c.Calls {
		if _, err := kong.Nginx.GetVar("request_id"); err != nil {
			kong.Response.Exit(500, nil, nil)
			return
		}
	}
}

func main() {
	if err := server.StartServer(func() any { return new(Config) }, "1.0.0", 1000); err != nil {
		fmt.Fprintln(os.Stderr, "baseline:", err)
		os.Exit(1)
	}
}
