// Command gatectl is the user's tool for wallarm-gate: it shows the gate at work
// on one machine, makes and rotates signing keys, signs and verifies single
// requests, and looks for open doors in a declarative kong.yml and in a running
// installation.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tool is what a command sees of the world.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
}

// command is one subcommand. Its run function reports a usageError for what the
// caller got wrong; any other error is a failure.
type command struct {
	name, synopsis, summary string
	run                     func(ctx context.Context, t *tool, args []string) error
}

// commands is a function because the help text is made from it too.
func commands() []command {
	return []command{
		{"demo", demoSynopsis, "run the whole way of a request on this machine, with every attack that must fail", runDemo},
		{"keys new", "[--alg ed25519|hmac-sha256] [--kid ID] [--activate-in D | --nbf TIME] [--expires-in D] [--out FILE]", "make a JWK Set with one new signing key", runKeysNew},
		{"keys add", "FILE [--alg ALG] [--kid ID] [--activate-in D | --nbf TIME] [--expires-in D] [--retire-in D]", "add a key to the set in FILE", runKeysAdd},
		{"keys prune", "FILE [--kid ID]", "drop the expired keys, and the one named, from the set in FILE", runKeysPrune},
		{"keys public", "FILE [--out FILE]", "print the part of the set that the gateway may see", runKeysPublic},
		{"sign", signSynopsis, "sign one request and print its headers", runSign},
		{"verify", verifySynopsis, "check the evidence of one request and show what it covers", runVerify},
		{"lint", "[--allow-report] [--json] FILE...", "look for open doors in declarative Kong configurations", runLint},
		{"probe", probeSynopsis, "look for open doors in a running installation, from outside", runProbe},
		{"version", "", "print the version", runVersion},
	}
}

// usageError is a mistake in the command line: exit status 2.
type usageError struct{ error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errSilent is a failure that the command has already shown in its output.
var errSilent = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	t := &tool{os.Stdin, os.Stdout, os.Stderr, time.Now}
	code := t.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// main runs one command line and returns the exit status.
func (t *tool) main(ctx context.Context, args []string) int {
	err := t.dispatch(ctx, args)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(t.stderr, "gatectl: %v\n", err)
		return 2
	case errors.Is(err, errUndetermined):
		return 3
	case !errors.Is(err, errSilent):
		fmt.Fprintf(t.stderr, "gatectl: %v\n", err)
	}
	return 1
}

func (t *tool) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		t.help(t.stderr)
		return usagef("no command given")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return t.helpOn(args[1:])
	case "-version", "--version":
		args = []string{"version"}
	}
	for _, c := range commands() {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			if err := c.run(ctx, t, args[len(words):]); err != nil {
				if errors.Is(err, flag.ErrHelp) || errors.Is(err, errSilent) {
					return err
				}
				return fmt.Errorf("%s: %w", c.name, err)
			}
			return nil
		}
	}
	if args[0] == "keys" {
		if len(args) > 1 && isHelp(args[1]) {
			return t.helpOn(args[:1])
		}
		return usagef("keys: one of new, add, prune and public must follow")
	}
	return usagef("%q is no command; see gatectl help", args[0])
}

func isHelp(arg string) bool {
	return arg == "-h" || arg == "-help" || arg == "--help" || arg == "help"
}

func (t *tool) help(w io.Writer) {
	fmt.Fprint(w, "usage: gatectl COMMAND [ARGUMENTS]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-12s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\ngatectl help COMMAND shows its options. Exit status: 0 done, 1 failed or refused, 2 wrong usage,\n3 not determined (probe).\n")
}

func (t *tool) helpOn(args []string) error {
	if len(args) == 0 || isHelp(args[0]) {
		t.help(t.stdout)
		return nil
	}
	topic, found := strings.Join(args, " "), false
	for _, c := range commands() {
		if c.name == topic || strings.HasPrefix(c.name, topic+" ") {
			found = true
			if err := c.run(context.Background(), t, []string{"-h"}); !errors.Is(err, flag.ErrHelp) {
				return err
			}
		}
	}
	if !found {
		return usagef("help: %q is no command; see gatectl help", topic)
	}
	return nil
}

// flagSet are the options of one command.
type flagSet struct {
	*flag.FlagSet
	tool *tool
}

// flags makes the flag set of the named command. Nothing is printed but by -h,
// and that goes to the standard output.
func (t *tool) flags(name string) *flagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return &flagSet{fs, t}
}

func (fs *flagSet) help() {
	for _, c := range commands() {
		if c.name == fs.Name() {
			fmt.Fprintf(fs.tool.stdout, "usage: gatectl %s\n%s\n", strings.TrimSpace(c.name+" "+c.synopsis), c.summary)
		}
	}
	fs.SetOutput(fs.tool.stdout)
	fs.PrintDefaults()
}

// duration is an option for a time.Duration that says what it wants.
func (fs *flagSet) duration(name string, value time.Duration, usage string) *time.Duration {
	fs.Var((*duration)(&value), name, usage)
	return &value
}

type duration time.Duration

func (d *duration) String() string { return time.Duration(*d).String() }

func (d *duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("it must be a duration such as 30s, 10m or 24h")
	}
	*d = duration(v)
	return nil
}

// number is an option for a whole number that says what it wants.
func (fs *flagSet) number(name string, value int, usage string) *int {
	fs.Var((*number)(&value), name, usage)
	return &value
}

type number int

func (n *number) String() string { return strconv.Itoa(int(*n)) }

func (n *number) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil {
		return errors.New("it must be a whole number")
	}
	*n = number(v)
	return nil
}

// list is an option that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// parse reads options and operands in any order, as GNU tools do, and wants
// from least to most operands; what names them.
func (fs *flagSet) parse(args []string, least, most int, what string) ([]string, error) {
	var operands []string
	for {
		if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
			fs.help()
			return nil, err
		} else if err != nil {
			return nil, usagef("%w; see gatectl help %s", err, fs.Name())
		}
		rest := fs.Args()
		if len(rest) == 0 {
			break
		}
		// Behind "--" everything is an operand.
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			operands = append(operands, rest...)
			break
		}
		operands, args = append(operands, rest[0]), rest[1:]
	}
	// An unset variable of a shell must not choose the default in silence.
	empty := ""
	fs.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" {
			empty = f.Name
		}
	})
	switch {
	case empty != "":
		return nil, usagef("--%s is empty; give it a value or leave it out", empty)
	case len(operands) < least:
		return nil, usagef("%s is missing; see gatectl help %s", what, fs.Name())
	case len(operands) > most:
		return nil, usagef("%q is one argument too many; see gatectl help %s", operands[most], fs.Name())
	}
	return operands, nil
}

func runVersion(_ context.Context, t *tool, args []string) error {
	if _, err := t.flags("version").parse(args, 0, 0, ""); err != nil {
		return err
	}
	_, err := fmt.Fprintf(t.stdout, "gatectl %s\n", version())
	return err
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// readLimited reads the file at path, "-" for the standard input, up to limit
// bytes.
func (t *tool) readLimited(path string, limit int64) ([]byte, error) {
	in, name := t.stdin, display(path)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, cause(path, err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, cause(name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: it is larger than %d bytes", name, limit)
	}
	return data, nil
}

// cause says what is wrong with a file, naming it once.
func cause(name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// display is what to call the file at path in a message.
func display(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}
