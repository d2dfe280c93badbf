package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// look is what the commands have in common that show what is in the kernel.
type look struct {
	root   string
	format string
}

func (l *look) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.root, "bpf-root", "/sys/fs/bpf/svcproxy", "the agent's --bpf-root")
	cmd.Flags().StringVarP(&l.format, "output", "o", "", "json, yaml or wide (default: a table)")
}

// open opens the maps of the agent on this node.
func (l *look) open() (*bpf.View, error) {
	if !slices.Contains([]string{"", "json", "yaml", "wide"}, l.format) {
		return nil, fmt.Errorf("--output %q: not json, yaml or wide", l.format)
	}
	return bpf.Open(l.root)
}

// table is rows under headings; Wide columns are shown with -o wide only.
type table struct {
	columns []column
	rows    [][]string
}

type column struct {
	name string
	wide bool
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// print writes data as JSON or YAML, or the table that shows it.
func (l *look) print(w io.Writer, data any, t *table) error {
	switch l.format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(data)
	case "yaml":
		text, err := yaml.Marshal(data)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cell func(int) string) {
		var cells []string
		for i, c := range t.columns {
			if !c.wide || l.format == "wide" {
				cells = append(cells, cell(i))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	line(func(i int) string { return t.columns[i].name })
	for _, row := range t.rows {
		line(func(i int) string { return row[i] })
	}
	return tw.Flush()
}
