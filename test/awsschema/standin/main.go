// Command standin is the schema stand-in as Terraform starts it. With -install DIR it puts
// itself where Terraform looks for hashicorp/aws and prints the CLI configuration to use.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/wallarm-gate/wallarm-gate/test/awsschema"
)

func main() {
	install := flag.String("install", "", "install into a file-system mirror below `DIR` and print the path of the Terraform CLI configuration")
	flag.Parse()
	if err := run(*install); err != nil {
		fmt.Fprintln(os.Stderr, "schema stand-in:", err)
		os.Exit(1)
	}
}

func run(install string) error {
	if install == "" {
		s, err := awsschema.Load()
		if err != nil {
			return err
		}
		return awsschema.Serve(s)
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cli, err := awsschema.Install(install, exe)
	if err != nil {
		return err
	}
	fmt.Println(cli)
	return nil
}
