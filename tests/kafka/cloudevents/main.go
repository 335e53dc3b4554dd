// SPDX-License-Identifier: Apache-2.0

// Reads messages as `kcat -J` prints them, with the Go SDK of CloudEvents: its Kafka binding decides by
// the headers what the message is, its JSON format reads it, its rules validate it. For each message
// one line of JSON: what the SDK found.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

type message struct {
	Headers []string `json:"headers"`
	Payload string   `json:"payload"`
}

func read(line []byte) (map[string]any, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return nil, err
	}
	headers, contentType := map[string][]byte{}, ""
	for i := 0; i+1 < len(m.Headers); i += 2 {
		headers[m.Headers[i]] = []byte(m.Headers[i+1])
		if m.Headers[i] == "content-type" {
			contentType = m.Headers[i+1]
		}
	}
	kafka := kafka_sarama.NewMessage([]byte(m.Payload), contentType, headers)
	event, err := binding.ToEvent(context.Background(), kafka)
	if err != nil {
		return nil, err
	}
	if err := event.Validate(); err != nil {
		return nil, err
	}
	return map[string]any{
		"encoding": kafka.ReadEncoding().String(), "specversion": event.SpecVersion(),
		"id": event.ID(), "source": event.Source(), "type": event.Type(), "subject": event.Subject(),
		"time": event.Time().Unix(), "datacontenttype": event.DataContentType(),
		"dataschema": event.DataSchema(), "extensions": event.Extensions(),
		"data": json.RawMessage(event.Data()),
	}, nil
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		found, err := read(in.Bytes())
		if err == nil {
			err = out.Encode(found)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%v: %.200s\n", err, in.Text())
			os.Exit(1)
		}
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
