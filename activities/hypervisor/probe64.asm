; Boot sector by which probe-kvm.ts finds out whether an accelerator runs what 64-bit operating systems need of ring 0:
; long mode with paging, SSE, a timer interrupt that wakes HLT, and IRETQ. It then leaves QEMU through isa-debug-exit,
; which turns the value v into exit code 2v + 1: 33 when all went well.
;
; The bytes in probe-kvm.ts are `nasm -f bin -o probe64.bin probe64.asm` without the zeros before the signature.

TICKS    equ 10          ; interrupts to see before it is believed
PASSED   equ 0x10
FAILED   equ 0x11
PML4     equ 0x1000      ; three page tables, then the IDT
PDPT     equ 0x2000
PD       equ 0x3000
IDT      equ 0x4000
CODE     equ 8
VECTOR   equ 0x20        ; of IRQ 0

%macro outb 2
    mov al, %2
    out %1, al
%endmacro

bits 16
org 0x7c00
    jmp 0:start
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00

    mov di, PML4                        ; clear tables and IDT
    mov cx, (IDT + 0x1000 - PML4) / 2
    cld
    rep stosw
    mov word [PML4], PDPT | 3
    mov word [PDPT], PD | 3
    mov word [PD], 0x83                 ; the first 2 MiB, as they are

    mov eax, cr4
    or eax, 1 << 5 | 1 << 9 | 1 << 10   ; PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, PML4
    mov cr3, eax
    mov ecx, 0xc0000080                 ; EFER
    rdmsr
    or ax, 1 << 8                       ; LME
    wrmsr
    lgdt [gdt_pointer]
    mov eax, cr0
    and al, ~(1 << 2)                   ; EM
    or eax, 1 << 31 | 3                 ; PG, MP, PE
    mov cr0, eax
    jmp CODE:long_mode

bits 64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x7c00
    mov dword [IDT + VECTOR * 16], tick + (CODE << 16)
    mov word [IDT + VECTOR * 16 + 4], 0x8e00
    lidt [idt_pointer]

    outb 0x20, 0x11                     ; both interrupt controllers: vectors from 0x20 and 0x28
    outb 0xa0, 0x11
    outb 0x21, VECTOR
    outb 0xa1, VECTOR + 8
    outb 0x21, 4
    outb 0xa1, 2
    outb 0x21, 1
    outb 0xa1, 1
    outb 0x21, 0xfe                     ; IRQ 0 alone
    outb 0xa1, 0xff
    outb 0x43, 0x34                     ; PIT channel 0, 100 times a second
    outb 0x40, 11932 & 255
    outb 0x40, 11932 >> 8

    xorps xmm0, xmm0
    pcmpeqd xmm1, xmm1                  ; -1 in each lane
    sti
.wait:
    psubd xmm0, xmm1                    ; count in an SSE register
    hlt
    cmp dword [ticks], TICKS
    jb .wait
    movd eax, xmm0
    cmp eax, [ticks]                    ; woken by each of them
    mov al, PASSED
    jae .leave
    mov al, FAILED
.leave:
    out 0xf4, al
    hlt

tick:
    push rax
    inc dword [ticks]
    outb 0x20, 0x20
    pop rax
    iretq

gdt:
    dq 0, 0x00209a0000000000
gdt_pointer:
    dw 15
    dd gdt
idt_pointer:
    dw (VECTOR + 1) * 16 - 1
    dq IDT
ticks:
    dd 0

    times 510 - ($ - $$) db 0
    dw 0xaa55
