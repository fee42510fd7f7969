// Mutate changes one comparison, bound or condition of a package at a time and
// runs the package's tests: a change that no test notices is printed.
//
//	mutate [-run REGEXP] [-from N] DIR [FILE...]
//
// DIR is the package's folder in its module; with FILEs only these change. The sources are not touched: the
// tests run with an overlay. Exit status: 0 all were noticed, 1 some were not, 2
// wrong usage.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// limit is how long the tests of one mutant may run: a loop without an end is
// noticed, and ends by itself. What builds them has as long again.
const limit = time.Minute

// mutant is one replacement in a file.
type mutant struct {
	file       string
	line       int
	start, end int // bytes
	old, new   string
}

func main() {
	run := flag.String("run", ".", "`regexp` of the tests")
	from := flag.Int("from", 1, "`number` of the first mutant")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: mutate [-run REGEXP] [-from N] DIR [FILE...]")
		os.Exit(2)
	}
	survivors, err := mutate(flag.Arg(0), flag.Args()[1:], *run, *from)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(2)
	}
	if survivors > 0 {
		os.Exit(1)
	}
}

func mutate(dir string, only []string, run string, from int) (survivors int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if noticed, out := tested(dir, run, ""); noticed {
		return 0, fmt.Errorf("the tests of %s fail without a change:\n%s", dir, out)
	}
	n := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || len(only) > 0 && !slices.Contains(only, filepath.Base(file)) {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return survivors, err
		}
		all, err := mutants(file, source)
		if err != nil {
			return survivors, err
		}
		for _, m := range all {
			if n++; n < from {
				continue
			}
			overlay, err := m.write(scratch, source)
			if err != nil {
				return survivors, err
			}
			if noticed, _ := tested(dir, run, overlay); !noticed {
				survivors++
				fmt.Printf("%d %s:%d: %s -> %s in %s\n", n, m.file, m.line, m.old, m.new, m.text(source))
			}
		}
	}
	fmt.Printf("%d mutants, %d not noticed\n", n-from+1, survivors)
	return survivors, nil
}

// tested reports whether the tests fail.
func tested(dir, run, overlay string) (failed bool, out []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	args := []string{"test", "-vet", "off", "-run", run, "-failfast", "-timeout", limit.String()}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	// What does not compile is no mutant: no test could let it pass.
	return err != nil, out
}

// write makes the overlay of the mutant.
func (m mutant) write(scratch string, source []byte) (string, error) {
	changed := filepath.Join(scratch, "mutant.go")
	text := string(source[:m.start]) + m.new + string(source[m.end:])
	if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
		return "", err
	}
	file, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(map[string]map[string]string{"Replace": {file: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(scratch, "overlay.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}

// text is the line that was changed.
func (m mutant) text(source []byte) string {
	lines := strings.Split(string(source), "\n")
	return strings.TrimSpace(lines[m.line-1])
}

// The other comparison at the same bound, and the opposite one.
var operators = map[token.Token][]string{
	token.LSS: {"<=", ">="}, token.LEQ: {"<", ">"}, token.GTR: {">=", "<="}, token.GEQ: {">", "<"},
	token.EQL: {"!="}, token.NEQ: {"=="}, token.LAND: {"||"}, token.LOR: {"&&"},
}

func mutants(file string, source []byte) (all []mutant, err error) {
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, file, source, 0)
	if err != nil {
		return nil, err
	}
	add := func(pos token.Pos, old, new string) {
		p := set.Position(pos)
		all = append(all, mutant{file: file, line: p.Line, start: p.Offset, end: p.Offset + len(old), old: old, new: new})
	}
	listed := map[ast.Expr]bool{}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.CompositeLit: // the first number of a list stands for all
			for _, e := range n.Elts[min(1, len(n.Elts)):] {
				listed[e] = true
			}
		case *ast.BinaryExpr:
			for _, op := range operators[n.Op] {
				add(n.OpPos, n.Op.String(), op)
			}
		case *ast.UnaryExpr:
			if n.Op == token.NOT {
				add(n.OpPos, "!", "")
			}
		case *ast.BasicLit:
			if v, ok := new(big.Int).SetString(n.Value, 0); ok && n.Kind == token.INT && !listed[n] {
				one := big.NewInt(1)
				add(n.Pos(), n.Value, new(big.Int).Add(v, one).String())
				add(n.Pos(), n.Value, "("+new(big.Int).Sub(v, one).String()+")")
			}
		case *ast.Ident:
			if n.Name == "true" {
				add(n.Pos(), "true", "false")
			} else if n.Name == "false" {
				add(n.Pos(), "false", "true")
			}
		}
		return true
	})
	return all, nil
}
