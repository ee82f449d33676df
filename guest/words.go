package guest

import (
	"errors"
	"strings"
)

// shellBuiltins only mean something to a shell; a command that begins with
// one is left to it.
const shellBuiltins = " . : alias break case cd continue eval exec export for if read readonly return set shift source trap ulimit umask unset until wait while "

// splitCommand splits a command into words as a POSIX shell would. Where it
// has syntax that only a shell can carry out (pipes, variables, assignments …)
// it returns shell true and no words. Patterns want a shell too, but the words
// come with them: a pattern that matches nothing stands for itself, as in
// "--listen [::]:80".
func splitCommand(command string) (argv []string, shell bool, err error) {
	var word strings.Builder
	inWord, quoted, pattern := false, false, false
	end := func() {
		if inWord {
			argv = append(argv, word.String())
			word.Reset()
			inWord, quoted = false, false
		}
	}
	for i := 0; i < len(command); i++ {
		c := command[i]
		switch {
		case c == ' ' || c == '\t':
			end()
		case c == '\\':
			if i+1 == len(command) {
				return nil, false, errors.New("it ends with a backslash")
			}
			i++
			if command[i] != '\n' { // which continues the line
				word.WriteByte(command[i])
				inWord = true
			}
		case c == '\'':
			j := strings.IndexByte(command[i+1:], '\'')
			if j < 0 {
				return nil, false, errors.New("a single quote is not closed")
			}
			word.WriteString(command[i+1 : i+1+j])
			inWord, quoted = true, true
			i += 1 + j
		case c == '"':
			n, expands, ok := doubleQuoted(command[i+1:], &word)
			if !ok {
				return nil, false, errors.New("a double quote is not closed")
			}
			if expands {
				return nil, true, nil
			}
			inWord, quoted = true, true
			i += n
		case strings.IndexByte("*?[", c) >= 0:
			pattern = true
			word.WriteByte(c)
			inWord = true
		case strings.IndexByte("|&;<>()$`\n", c) >= 0,
			!inWord && strings.IndexByte("~#!{", c) >= 0,
			c == '=' && len(argv) == 0 && !quoted && isName(word.String()):
			return nil, true, nil
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	if len(argv) == 0 {
		return nil, false, errors.New("it is empty")
	}
	if strings.Contains(shellBuiltins, " "+argv[0]+" ") {
		return nil, true, nil
	}
	return argv, pattern, nil
}

// doubleQuoted appends what stands up to the closing quote and returns how
// many bytes that took, the quote included, and whether it needs expansion.
func doubleQuoted(s string, word *strings.Builder) (n int, expands, ok bool) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return i + 1, expands, true
		case '$', '`':
			expands = true
		case '\\':
			if i+1 < len(s) && strings.IndexByte("$`\"\\\n", s[i+1]) >= 0 {
				i++
				if s[i] != '\n' {
					word.WriteByte(s[i])
				}
				continue
			}
			word.WriteByte(c)
		default:
			word.WriteByte(c)
		}
	}
	return 0, false, false
}

// isName reports whether s could be a variable's name before "=".
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
