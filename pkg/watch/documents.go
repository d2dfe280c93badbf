package watch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// document is one document of a file, as JSON.
type document struct {
	number int // in the file, from 1
	line   int // on which it begins, from 1
	json   []byte
}

func (d document) String() string { return fmt.Sprintf("document %d (line %d)", d.number, d.line) }

// splitJSON reads the documents of a .json file, usually one.
func splitJSON(data []byte) ([]document, error) {
	var docs []document
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		start := dec.InputOffset()
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			at := int64(len(data)) // cut short, if nothing else
			if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
				at = syntax.Offset
			}
			return nil, fmt.Errorf("line %d: %w", lineAt(data, at), err)
		}
		gap := len(data[start:]) - len(bytes.TrimLeft(data[start:], " \t\r\n"))
		docs = append(docs, document{number: len(docs) + 1, line: lineAt(data, start+int64(gap)), json: raw})
	}
}

// lineAt returns the number, from 1, of the line that offset is in.
func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(offset, int64(len(data)))], []byte("\n"))
}

// splitYAML reads the documents of a YAML file; those without content are not mentioned.
func splitYAML(data []byte) ([]document, error) {
	var docs []document
	for _, part := range splitMarkers(data) {
		asJSON, err := yaml.YAMLToJSONStrict(part.text)
		if err != nil {
			// Once more with the lines before it, empty, so that the error names the file's line.
			padded := append(bytes.Repeat([]byte("\n"), part.line-1), part.text...)
			if _, again := yaml.YAMLToJSONStrict(padded); again != nil {
				err = again
			}
			return nil, fmt.Errorf("document %d (line %d): %w", len(docs)+1, part.line, err)
		}
		if !bytes.Equal(asJSON, []byte("null")) {
			docs = append(docs, document{number: len(docs) + 1, line: part.line, json: asJSON})
		}
	}
	return docs, nil
}

// yamlPart is the text of one document, and the line on which its content begins.
type yamlPart struct {
	line int
	text []byte
}

// splitMarkers cuts a YAML stream at its document markers (YAML 1.2, 9.2), which stand at the beginning
// of a line and nowhere else.
func splitMarkers(data []byte) []yamlPart {
	var parts []yamlPart
	var part yamlPart // line 0: has no content yet
	flush := func() {
		if part.line != 0 {
			parts = append(parts, part)
		}
		part = yamlPart{}
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if rest, ok := afterMarker(line, "---"); ok {
			flush()
			line = rest
		} else if _, ok := afterMarker(line, "..."); ok {
			flush()
			continue
		} else if part.line == 0 && line[0] == '%' { // a directive
			continue
		}
		if part.line == 0 {
			if content := bytes.TrimSpace(line); len(content) == 0 || content[0] == '#' {
				continue
			}
			part.line = number
		}
		part.text = append(part.text, line...)
	}
	flush()
	return parts
}

// afterMarker returns what follows marker on its line.
func afterMarker(line []byte, marker string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	if !ok || len(rest) > 0 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])) {
		return nil, false
	}
	return rest, true
}
