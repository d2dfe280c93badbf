package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// page is what the demo prints: at most 100 columns, in colours only for a person at a terminal. Writing
// to it does not fail: who closes the other end ends the demo with a signal.
type page struct {
	w      io.Writer
	colour bool
	open   bool // the last line is not ended
	wrong  int  // rows that were not as promised
}

const (
	bold  = "1"
	red   = "1;31"
	green = "32"
)

func newPage(w io.Writer) *page {
	p := &page{w: w}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.colour = err == nil
	}
	return p
}

func (p *page) line(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// end ends the line.
func (p *page) end() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}

// doing says what is being done, and, by the returned function, how long it took.
func (p *page) doing(what string) (done func()) {
	fmt.Fprintf(p.w, "%-72s ", what+" ...")
	p.open = true
	began := time.Now()
	return func() {
		fmt.Fprintf(p.w, "%4.1f s", time.Since(began).Seconds())
		p.end()
	}
}

// section begins a part of the story: what it is about, and why it comes out as it does.
func (p *page) section(title, why string) {
	p.line("\n%s", p.paint(bold, title))
	for _, line := range strings.Split(strings.TrimSpace(why), "\n") {
		p.line("%s", line)
	}
}

func (p *page) head(cells ...string) { p.line("\n         %s", columns(cells)) }

// row is one line of a table; problem says what was promised instead, if it was.
func (p *page) row(problem string, cells ...string) {
	if problem == "" {
		p.line("  %s     %s", p.paint(green, "ok"), columns(cells))
		return
	}
	p.wrong++
	p.line("  %s  %s", p.paint(red, "WRONG"), columns(cells))
	p.line("         %s", p.paint(red, "^ "+problem))
}

// columns sets cells below each other; the last may be of any length.
func columns(cells []string) string {
	widths := []int{10, 24, 24}
	var line strings.Builder
	for i, c := range cells {
		if i < len(cells)-1 {
			c = fmt.Sprintf("%-*s ", widths[i], c)
		}
		line.WriteString(c)
	}
	return line.String()
}

func (p *page) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
