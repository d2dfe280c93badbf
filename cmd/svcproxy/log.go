package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// newAgentLogger returns the agent's log, and gives client-go's to it. Verbosity n is the level -n, so that
// slog's debug is 4, as it is for all of Kubernetes.
func newAgentLogger(l *logsapi.LoggingConfiguration, w io.Writer) (*slog.Logger, error) {
	modules := &moduleHandler{level: -slog.Level(l.Verbosity), modules: l.VModule}
	lowest := modules.level
	for _, m := range l.VModule {
		lowest = min(lowest, -slog.Level(m.Verbosity))
	}
	options := &slog.HandlerOptions{Level: lowest}
	if l.Format == logsapi.JSONLogFormat {
		modules.Handler = slog.NewJSONHandler(w, options)
	} else {
		modules.Handler = slog.NewTextHandler(w, options)
	}
	log := slog.New(modules)

	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	for name, value := range map[string]string{"v": fmt.Sprint(l.Verbosity), "vmodule": logsapi.VModuleConfigurationPflag(&l.VModule).String()} {
		if err := klogFlags.Set(name, value); err != nil {
			return nil, fmt.Errorf("--%s %s: %w", name, value, err)
		}
	}
	klog.SetSlogLogger(log.With("from", "client-go"))
	return log, nil
}

// moduleHandler leaves out what is below the level, unless it comes from a source file that has a verbosity
// of its own (--vmodule).
type moduleHandler struct {
	slog.Handler // lets everything through that may be wanted
	level        slog.Level
	modules      logsapi.VModuleConfiguration
}

func (h *moduleHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < h.level && !h.wanted(r) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// wanted reports whether the file that r comes from is to say so much. The first pattern that fits counts.
func (h *moduleHandler) wanted(r slog.Record) bool {
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	file := strings.TrimSuffix(filepath.Base(frame.File), ".go")
	i := slices.IndexFunc(h.modules, func(m logsapi.VModuleItem) bool {
		ok, _ := filepath.Match(m.FilePattern, file) // the pattern has been checked
		return ok
	})
	return i >= 0 && r.Level >= -slog.Level(h.modules[i].Verbosity)
}

func (h *moduleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.Handler = h.Handler.WithAttrs(attrs)
	return &with
}

func (h *moduleHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.Handler = h.Handler.WithGroup(name)
	return &with
}
