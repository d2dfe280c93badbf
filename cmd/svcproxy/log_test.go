package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

func TestVerbosity(t *testing.T) {
	for _, tc := range []struct {
		name    string
		logging logsapi.LoggingConfiguration
		want    string
	}{
		{"by default", logsapi.LoggingConfiguration{}, "error info klog0"},
		{"2", logsapi.LoggingConfiguration{Verbosity: 2}, "error info klog0 klog2"},
		{"4 is debug", logsapi.LoggingConfiguration{Verbosity: 4}, "error info debug klog0 klog2 klog4"},
		{"of this file", logsapi.LoggingConfiguration{VModule: logsapi.VModuleConfiguration{{FilePattern: "log_te*", Verbosity: 4}}}, "error info debug klog0 klog2 klog4"},
		{"of another", logsapi.LoggingConfiguration{VModule: logsapi.VModuleConfiguration{{FilePattern: "agent", Verbosity: 9}}}, "error info klog0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			log, err := newAgentLogger(&tc.logging, &out)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(klog.ClearLogger)
			log.Error("error")
			log.Info("info")
			log.With("a", 1).WithGroup("g").Debug("debug")
			klog.InfoS("klog0")
			klog.V(2).InfoS("klog2")
			klog.V(4).InfoS("klog4")
			klog.V(6).InfoS("klog6")
			var got []string
			for line := range strings.Lines(out.String()) {
				_, rest, _ := strings.Cut(line, "msg=")
				got = append(got, strings.Fields(rest)[0])
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got %q, want %q\n%s", got, tc.want, out.String())
			}
		})
	}
}

func TestJSONLog(t *testing.T) {
	var out bytes.Buffer
	log, err := newAgentLogger(&logsapi.LoggingConfiguration{Format: "json"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(klog.ClearLogger)
	log.LogAttrs(context.Background(), slog.LevelInfo, "hello", slog.Int("n", 5))
	var line struct {
		Msg string
		N   int
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Msg != "hello" || line.N != 5 {
		t.Errorf("error %v: %s", err, out.String())
	}
}
