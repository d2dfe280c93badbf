package conntrack

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	sysctls = "/proc/sys/net/netfilter/"
	online  = "/sys/devices/system/cpu/online"
)

// Apply writes what is not yet as it is to be, in the network namespace that the calling thread is in.
// Nobody reverts it. What this kernel does not have, or does not let us write here (a read-only container,
// a namespace that is not the first for what is global), is a warning; other errors name the setting.
func Apply(settings []Setting, log *slog.Logger) error {
	for _, s := range settings {
		changed, err := s.apply()
		switch {
		case err == nil && changed:
			log.Info("connection tracking set", "setting", s.Name, "value", s.Value)
		case err != nil && s.bearable(err):
			log.Warn("connection tracking not set", "setting", s.Name, "value", s.Value, "error", err)
		case err != nil:
			return fmt.Errorf("set %s to %d: %w", s.Name, s.Value, err)
		}
	}
	return nil
}

func (s Setting) apply() (changed bool, err error) {
	text, err := os.ReadFile(s.Path)
	if err != nil {
		return false, err
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.Path, err)
	}
	if have == s.Value || s.AtLeast && have > s.Value {
		return false, nil
	}
	return true, os.WriteFile(s.Path, []byte(strconv.Itoa(s.Value)), 0)
}

// bearable reports whether err is about where we run, and not about the value.
func (s Setting) bearable(err error) bool {
	switch {
	case errors.Is(err, fs.ErrNotExist): // nf_conntrack is not loaded, or older than the setting
		return true
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return true
	}
	return s.Global && errors.Is(err, unix.EOPNOTSUPP)
}

// Processors returns how many there are on the node, whatever this process may use of them.
func Processors() int {
	text, err := os.ReadFile(online)
	if err != nil {
		return runtime.NumCPU()
	}
	n, err := countList(strings.TrimSpace(string(text)))
	if err != nil || n == 0 {
		return runtime.NumCPU()
	}
	return n
}

// countList counts a list of the kernel's, such as 0-3,8.
func countList(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		low, high, ok := strings.Cut(part, "-")
		if !ok {
			high = low
		}
		first, err := strconv.Atoi(low)
		if err != nil {
			return 0, err
		}
		last, err := strconv.Atoi(high)
		if err != nil {
			return 0, err
		}
		n += last - first + 1
	}
	return n, nil
}
