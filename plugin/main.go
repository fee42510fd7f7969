// Command wallarm-gate is a plugin of Kong Gateway: a verifier of the evidence
// that a request passed a Wallarm node while it was inspecting. Kong starts it
// and talks to it over a unix socket, in the protocol of its plugin servers.
//
// README.md in this folder is its manual.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path"
	"syscall"
	"time"
)

// What Kong's loaders look for: the version, the place in the order of plugins
// (before pre-function, which has the highest of the bundled ones), and a
// constructor. Variables, because a plugin of -buildmode=plugin is asked for
// them by name.
var (
	Version  = "0.1.0"
	Priority = 1000001
)

// New returns a configuration to decode into.
func New() interface{} { return &Config{gate: shared()} }

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // also: -check found an open door
	exitUsage   = 2 // also: -check could not read its file
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are the command line.
type options struct {
	prefix        string
	dump          bool
	help          bool
	version       bool
	install       string
	check         string
	allowReport   bool
	copyTo        string
	metricsListen string
	statusURL     string
}

// parseOptions reads the command line. The first three options are those of
// every plugin in Go: Kong's users write them into its configuration.
func parseOptions(flags *flag.FlagSet, args []string) (o options, err error) {
	flags.StringVar(&o.prefix, "kong-prefix", "/usr/local/kong", "Kong's prefix: the `DIR` in which the socket is made")
	flags.BoolVar(&o.dump, "dump", false, "print what Kong has to know about the plugin and exit")
	flags.BoolVar(&o.help, "help", false, "print the options and exit")
	flags.BoolVar(&o.version, "version", false, "print the version and exit")
	flags.StringVar(&o.install, "install", "", "write the binary, evidence.conf and wallarm-gate.json into `DIR` and exit")
	flags.StringVar(&o.check, "check", "", "check the declarative configuration in `FILE` for open doors and exit")
	flags.BoolVar(&o.allowReport, "allow-report", false, "with -check: a gate in report mode is no open door")
	flags.StringVar(&o.copyTo, "copy", "", "with -check: write what was checked to `FILE`, if no door is open")
	flags.StringVar(&o.metricsListen, "metrics-listen", "", "serve /metrics, /livez and /readyz on `ADDR` (host:port)")
	flags.StringVar(&o.statusURL, "kong-status-url", "", "`URL` of Kong's /status/ready, which /readyz asks too")

	flags.SetOutput(io.Discard) // an error is one sentence, without the options
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		o.help = true
		return o, nil
	} else if err != nil {
		return o, err
	}
	flags.Visit(func(f *flag.Flag) {
		if err == nil && f.Value.String() == "" {
			err = fmt.Errorf("-%s has an empty value", f.Name)
		}
	})
	if err != nil {
		return o, err
	}
	return o, o.validate(flags.Args())
}

func (o *options) validate(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %s: flags only", quote(rest[0]))
	}
	commands := 0
	for _, given := range []bool{o.dump, o.version, o.install != "", o.check != ""} {
		if given {
			commands++
		}
	}
	if commands > 1 {
		return errors.New("only one of -dump, -version, -install and -check may be given")
	}
	if o.allowReport && o.check == "" {
		return errors.New("-allow-report needs -check, whose findings it changes")
	}
	if o.copyTo != "" && o.check == "" {
		return errors.New("-copy needs -check, which says what is copied")
	}
	if o.metricsListen != "" {
		if _, port, err := net.SplitHostPort(o.metricsListen); err != nil || port == "" {
			return fmt.Errorf("-metrics-listen is %s: want host:port, such as 127.0.0.1:9542", quote(o.metricsListen))
		}
	}
	if o.statusURL != "" {
		u, err := url.Parse(o.statusURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return errors.New("-kong-status-url: want an http or https URL without a user, such as http://127.0.0.1:8100/status/ready")
		}
		if o.metricsListen == "" {
			return errors.New("-kong-status-url needs -metrics-listen, which serves /readyz")
		}
	}
	return nil
}

// run is main with its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	log.SetOutput(stderr)
	fail := func(code int, err error) int {
		fmt.Fprintf(stderr, "%s: %v\n", pluginName, err)
		return code
	}
	flags := flag.NewFlagSet(pluginName, flag.ContinueOnError)
	o, err := parseOptions(flags, args)
	if err != nil {
		return fail(exitUsage, err)
	}
	switch {
	case o.help:
		flags.SetOutput(stdout)
		flags.Usage()
		return exitOK
	case o.version:
		fmt.Fprintln(stdout, pluginName, Version)
		return exitOK
	case o.dump:
		name, err := executableName()
		if err == nil {
			err = dump(name, o.prefix).write(stdout)
		}
		if err != nil {
			return fail(exitFailure, err)
		}
		return exitOK
	case o.install != "":
		if err := install(o.install, o.prefix); err != nil {
			return fail(exitFailure, err)
		}
		return exitOK
	case o.check != "":
		switch err := checkFile(o.check, o.copyTo, o.allowReport, stdout); {
		case errors.Is(err, errOpen):
			return exitFailure // the findings have been printed
		case errors.Is(err, errNotCopied):
			return fail(exitFailure, err)
		case err != nil:
			return fail(exitUsage, err)
		}
		return exitOK
	}
	if err := serve(o); err != nil {
		return fail(exitFailure, err)
	}
	return exitOK
}

// serve runs the plugin until Kong ends it.
func serve(o options) error {
	name, err := executableName()
	if err != nil {
		return err
	}
	if o.metricsListen != "" {
		p := newProbes(path.Join(o.prefix, name+".socket"), o.statusURL)
		go serveProbes(context.Background(), o.metricsListen, handler(shared().metrics, p), time.Tick(bindInterval))
	}
	socket, err := listen(path.Join(o.prefix, name+".socket"))
	if err != nil {
		return fmt.Errorf("serve the plugin: %w", err)
	}
	l, crashed, err := begin(o.prefix)
	if crashed {
		shared().since = forgottenUntil(time.Now())
		why := "crashed"
		if err != nil {
			why = "counts as crashed (" + err.Error() + ")"
		}
		shared().notice("the last process of the plugin " + why + ": evidence from before " + shared().since.UTC().Format(time.RFC3339) + " is refused")
	}
	if l != nil {
		go endOnSignal(l)
	}
	log.Printf("listening on %s", socket.Addr())
	return fmt.Errorf("serve the plugin: %w", (&pluginServer{now: time.Now, say: shared().notice}).serve(socket))
}

// endOnSignal ends the process when Kong, or an operator, asks for it.
func endOnSignal(l *life) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	l.end()
	os.Exit(exitOK)
}
