package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// ticksPerSecond is the kernel's USER_HZ.
const ticksPerSecond = 100

// cpuTime is what a process and the children that it has waited for (nft, iptables-restore) have used.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime (proc(5))
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// kilobytes returns the sum of lines of a file in /proc, in bytes.
func kilobytes(path string, names ...string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var sum int64
	found := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		for _, name := range names {
			if len(fields) >= 2 && fields[0] == name+":" {
				n, err := strconv.ParseInt(fields[1], 10, 64)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", path, err)
				}
				sum += n << 10
				found++
			}
		}
	}
	if found != len(names) {
		return 0, fmt.Errorf("%s does not have all of %v", path, names)
	}
	return sum, nil
}

// mapMemory is what the kernel says that the BPF maps take which the process has open.
func mapMemory(_ *world, p *testenv.Process) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p.PID()))
	if err != nil {
		return 0, err
	}
	var sum int64
	seen := map[string]bool{} // one map may have several descriptors
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		values := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				values[name] = strings.TrimSpace(value)
			}
		}
		id, isMap := values["map_id"]
		if !isMap || seen[id] {
			continue
		}
		seen[id] = true
		n, err := strconv.ParseInt(values["memlock"], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: memlock: %w", file, err)
		}
		sum += n
	}
	return sum, nil
}

// rulesetMemory is what kernel memory falls by when the node's netfilter rules are removed: nobody accounts
// for them. Other work on the machine disturbs it.
func rulesetMemory(w *world, p *testenv.Process) (int64, error) {
	p.Kill() // it would put them back
	before, err := kernelMemory()
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	flush := exec.Command("nft", "flush", "ruleset")
	flush.Stderr = &out
	flushing, err := w.node.Start(flush)
	if err != nil {
		return 0, err
	}
	<-flushing.Done()
	if err := flushing.Wait(w.ctx); err != nil {
		return 0, fmt.Errorf("nft flush ruleset: %w: %s", err, out.String())
	}
	time.Sleep(time.Second) // the kernel frees them later
	after, err := kernelMemory()
	return max(0, before-after), err
}

func kernelMemory() (int64, error) {
	return kilobytes("/proc/meminfo", "Slab", "VmallocUsed", "Percpu")
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// machine says what this runs on.
func machine() string {
	cpu := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // better half a line than none
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%s, %d processors, Linux %s; load when it began %s", cpu, processors(), firstLine(release), strings.Join(strings.Fields(string(load))[:3], " "))
}
