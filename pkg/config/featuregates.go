package config

import (
	_ "embed"
	"strings"
)

// gateExternalIPs is the only feature gate that says something about what a Service does.
const gateExternalIPs = "AllowServiceExternalIPs"

// knownGates are the names of all feature gates that Kubernetes 1.36 knows, one a line.
//
//go:embed featuregates.txt
var knownGates string

func knownGate(name string) bool {
	return strings.Contains("\n"+knownGates, "\n"+name+"\n")
}
